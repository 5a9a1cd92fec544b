-- What the scheduled checks remember. `pipeline` is analytic and version, as in resource names: heart_rate_v1.

-- Where each stage was. Grain: one row a pipeline, stage and moment.
CREATE TABLE monitoring.stage_samples (
  pipeline text NOT NULL,
  stage text NOT NULL,
  at timestamptz NOT NULL,
  position bigint NOT NULL,  -- sum over the partitions of the offsets that it has come to
  head bigint,  -- the same of the ends of the topic that it reads; null for a stage that is the end of a topic
  PRIMARY KEY (pipeline, stage, at)
);
CREATE INDEX stage_samples_at ON monitoring.stage_samples (pipeline, at);

-- What a check made of its samples. Grain: one row a pipeline, stage and check; written while a run is on.
CREATE TABLE monitoring.stage_rates (
  pipeline text NOT NULL,
  stage text NOT NULL,
  at timestamptz NOT NULL,  -- end of the check
  seconds double precision NOT NULL,  -- how long it sampled
  events_per_second double precision NOT NULL,
  peak_events_per_second double precision NOT NULL,  -- largest rate between two samples
  lag_events bigint,
  lag_seconds double precision,
  PRIMARY KEY (pipeline, stage, at)
);
CREATE INDEX stage_rates_at ON monitoring.stage_rates (pipeline, at);

-- End-to-end latency. Grain: one row a result, known by where it stands in the results' topic.
CREATE TABLE monitoring.latencies (
  pipeline text NOT NULL,
  kafka_partition integer NOT NULL,
  kafka_offset bigint NOT NULL,
  at timestamptz NOT NULL,  -- when a read_committed reader could see the result
  since_closing_ms double precision,  -- since the event that closed its window could be seen; null where that isn't known
  since_window_end_ms double precision,  -- since the window's end by the events' clock; null where that ran ahead
  PRIMARY KEY (pipeline, kafka_partition, kafka_offset)
);
CREATE INDEX latencies_at ON monitoring.latencies (pipeline, at);

-- Whole runs of heart-watch. Grain: one row a flow run.
CREATE TABLE monitoring.runs (
  run_id text PRIMARY KEY,
  pipeline text NOT NULL,
  began_at timestamptz NOT NULL,  -- the first stream's first rate that isn't zero
  ended_at timestamptz NOT NULL,  -- the last result
  events bigint NOT NULL,
  events_per_second double precision NOT NULL,  -- the original's headline figure: events / (ended_at - began_at)
  steady_seconds double precision,  -- the steady state's length; null where the run was too short for one
  steady_events_per_second double precision,  -- rate of the slowest stage over it, warm-up and run-out cut off
  latency_p50_ms double precision,  -- of latencies.since_closing_ms
  latency_p95_ms double precision,
  latency_p99_ms double precision,
  alerts bigint NOT NULL,
  exact boolean NOT NULL,  -- whether the results equal the batch computation's
  recall double precision,
  precision double precision
);
CREATE INDEX runs_ended_at ON monitoring.runs (pipeline, ended_at);

-- Restarts of failed connector tasks by watch-health. Grain: one row a connector and task; -1 is the connector itself.
CREATE TABLE monitoring.connector_restarts (
  connector text NOT NULL,
  task integer NOT NULL,
  restarts integer NOT NULL,  -- since it last ran for long enough
  last_at timestamptz NOT NULL,
  PRIMARY KEY (connector, task)
);
