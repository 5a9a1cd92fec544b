"""A client of ksqlDB's REST API and a prompt over it; of real ksqlDB too."""
