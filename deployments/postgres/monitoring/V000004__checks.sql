-- What the checks found, so that a plot shows it over time. The checks delete rows that are too old, as all of this schema.

-- Checks of sinks that looked at all that was new. Grain: one row a pipeline, topic and check.
CREATE TABLE monitoring.sink_checks (
  pipeline text NOT NULL,
  topic text NOT NULL,
  at timestamptz NOT NULL,  -- end of the check
  proven_rows bigint NOT NULL,  -- rows of the sink that are proven, by this check and before
  wrong bigint NOT NULL,  -- records missing, lost or changed, and rows twice or that Kafka never had
  dead_letters bigint NOT NULL,  -- all of the topic
  waiting_seconds double precision NOT NULL,  -- how long records have been waiting for the sink at least
  PRIMARY KEY (pipeline, topic, at)
);
CREATE INDEX sink_checks_at ON monitoring.sink_checks (pipeline, at);

-- Checks of the detections. Grain: one row a pipeline and check that had something to compare.
CREATE TABLE monitoring.detection_checks (
  pipeline text NOT NULL,
  at timestamptz NOT NULL,  -- end of the check
  alerts bigint NOT NULL,
  wrong bigint NOT NULL,  -- alerts that differ from the batch computation's
  recall double precision,  -- null without a simulator, which knows the truth
  precision double precision,
  PRIMARY KEY (pipeline, at)
);
