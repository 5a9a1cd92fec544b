"""The embedded platform: the real servers, from pinned packages, on free loopback ports."""
