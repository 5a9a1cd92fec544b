-- Each user's own heart-rate range, as change data capture keeps it in the compacted topic.
-- Grain: one row a user. A tombstone removes the user.
CREATE TABLE ${historical_table} (
  `user_id` STRING PRIMARY KEY,
  `min_heart_rate` INT,
  `max_heart_rate` INT
) WITH (
  KAFKA_TOPIC = '${historical_topic}',
  KEY_FORMAT = 'KAFKA',
  VALUE_FORMAT = 'AVRO'
);
