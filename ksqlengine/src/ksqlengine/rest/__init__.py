"""ksqlDB's REST API over HTTP/1.1 and HTTP/2: routes, media types, inserts, websockets, and the server process."""
