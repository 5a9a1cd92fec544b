"""The commands `heartwatch ksql`."""
