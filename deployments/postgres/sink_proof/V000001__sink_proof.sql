-- What verify-sink has proven, so that the next check reads only what is new. Offsets are half-open: begin <= offset < "end".

-- Topics that have been checked. Grain: one row a topic.
CREATE TABLE sink_proof.topics (
  topic text PRIMARY KEY,
  topic_id text NOT NULL,  -- Kafka's: another topic of the same name has another one, and nothing is known of it
  version text NOT NULL,  -- the sink's state at the last check: an Iceberg snapshot's id, or number and time of objects
  checked_at timestamptz NOT NULL DEFAULT now()
);

-- Where a topic's checks begin, and what waits. Grain: one row a topic and partition.
CREATE TABLE sink_proof.partitions (
  topic text NOT NULL REFERENCES sink_proof.topics ON DELETE CASCADE,
  partition integer NOT NULL,
  base bigint NOT NULL,  -- Kafka's first offset at the first check
  waiting_offset bigint,  -- first record that the sink hadn't got at the last check; null where it had all
  waiting_since timestamptz,  -- when that was found first, by the store's clock
  PRIMARY KEY (topic, partition)
);

-- Offsets that need no comparison any more while the sink's objects stay. Grain: one row a topic, partition and first offset.
CREATE TABLE sink_proof.segments (
  topic text NOT NULL REFERENCES sink_proof.topics ON DELETE CASCADE,
  partition integer NOT NULL,
  begin bigint NOT NULL,
  "end" bigint NOT NULL,
  records bigint NOT NULL,  -- Kafka's
  rows bigint NOT NULL,  -- the sink's
  digest numeric(20) NOT NULL,  -- sum of the rows' hashes modulo 2^64
  hashed_by text NOT NULL,  -- hash function; digests of another one say nothing
  first bigint,  -- first and last offset with a row; null without rows
  last bigint,
  state text NOT NULL,  -- proven | broken (rows changed since, Kafka no longer has the records) | unchecked (Kafka removed them before)
  proven_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, partition, begin)
);

-- The sink's objects when they were last seen in order. Grain: one row a topic and path.
CREATE TABLE sink_proof.objects (
  topic text NOT NULL REFERENCES sink_proof.topics ON DELETE CASCADE,
  path text NOT NULL,
  identity text NOT NULL,  -- size and time of writing
  size bigint NOT NULL,
  written_at timestamptz NOT NULL,
  low_partition integer NOT NULL,
  high_partition integer NOT NULL,
  low_offset bigint NOT NULL,  -- over all its partitions
  end_offset bigint NOT NULL,  -- 2^63 - 1 where the end isn't known
  rows bigint,  -- null where only reading tells
  counted boolean NOT NULL,  -- its rows carry no offsets
  PRIMARY KEY (topic, path)
);

-- Records that connectors refused. Grain: one row a record.
CREATE TABLE sink_proof.dead_letters (
  topic text NOT NULL,  -- where the record stands, not where the connector put it
  topic_id text NOT NULL,
  partition integer NOT NULL,
  "offset" bigint NOT NULL,
  reason text NOT NULL,
  at timestamptz,  -- the record's own time
  PRIMARY KEY (topic, topic_id, partition, "offset")
);

-- How far dead-letter topics have been read. Grain: one row a dead-letter topic and partition.
CREATE TABLE sink_proof.dead_letter_positions (
  topic text NOT NULL,  -- the dead-letter topic
  topic_id text NOT NULL,
  partition integer NOT NULL,
  next bigint NOT NULL,  -- first offset that hasn't been read
  strangers bigint NOT NULL,  -- records that don't say where they come from
  PRIMARY KEY (topic, topic_id, partition)
);
