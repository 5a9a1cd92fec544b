"""The EC2 clusters: which machines, what they cost, how they are provisioned, found by tags, filled and started."""
