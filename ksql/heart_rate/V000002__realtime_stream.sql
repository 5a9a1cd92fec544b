-- What the wearables send. Grain: one row a sample.
-- Producers key the records by user id with the Java client's murmur2, as the connector keys the historical topic, so both
-- topics are co-partitioned and the join needs no repartition topic.
CREATE STREAM ${realtime_stream} (
  `user_id` STRING KEY,
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
