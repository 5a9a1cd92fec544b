-- Where a check has come to, so that it does nothing when nothing is new. Grain: one row a pipeline and check.
CREATE TABLE monitoring.marks (
  pipeline text NOT NULL,
  name text NOT NULL,
  value text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, name)
);
