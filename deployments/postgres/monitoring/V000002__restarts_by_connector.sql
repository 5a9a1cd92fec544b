-- Connect restarts all failed tasks of a connector at once, so that they are counted together.
-- Grain: one row a connector.
DROP TABLE monitoring.connector_restarts;
CREATE TABLE monitoring.connector_restarts (
  connector text PRIMARY KEY,
  restarts integer NOT NULL,  -- since it last ran for long enough
  last_at timestamptz NOT NULL
);
