-- What the wearables send, in place of the file of the same name where analytic.toml says `repartition = true`.
-- Grain: one row a sample.
-- The join is on the value's `user_id`, which isn't the record's key here: ksqlDB and the embedded engine put the stream again into a topic of
-- the query's own, by that column, as PARTITION BY `user_id` would (… -Join-left-repartition). People are found wherever the producer's
-- partitioner put them, and without a key too.
CREATE STREAM ${realtime_stream} (
  `record_key` STRING KEY,
  `user_id` STRING,
  `event_time` TIMESTAMP,
  `zipcode` INT,
  `latitude` DOUBLE,
  `longitude` DOUBLE,
  `heart_rate` INT
) WITH (
  KAFKA_TOPIC = '${realtime_topic}',
  KEY_FORMAT = 'KAFKA',
  VALUE_FORMAT = 'AVRO',
  TIMESTAMP = '`event_time`'
);
