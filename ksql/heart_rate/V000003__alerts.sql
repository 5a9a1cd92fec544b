-- Users who did not move during a window while their average heart rate was outside their own range.
-- Grain: one row a user and window, written once, after the window's grace period.
-- Not moving: the window's positions lie in a box of at most ${still_degrees} degrees on both sides, and there are at least
-- ${minimum_events} of them (one position alone proves nothing).
CREATE TABLE ${alerts_table} WITH (
  KAFKA_TOPIC = '${alerts_topic}',
  KEY_FORMAT = 'KAFKA',
  VALUE_FORMAT = 'AVRO',
  VALUE_SCHEMA_FULL_NAME = 'heartwatch.heart_rate.Alert'
) AS
SELECT
  r.`user_id` AS `key_user_id`,
  AS_VALUE(r.`user_id`) AS `user_id`,
  FROM_UNIXTIME(MIN(UNIX_TIMESTAMP(r.`event_time`)) / ${window_ms} * ${window_ms}) AS `window_start`,
  FROM_UNIXTIME(MIN(UNIX_TIMESTAMP(r.`event_time`)) / ${window_ms} * ${window_ms} + ${window_ms}) AS `window_end`,
  COUNT(*) AS `event_count`,
  AVG(r.`heart_rate`) AS `avg_heart_rate`,
  MIN(h.`min_heart_rate`) AS `min_heart_rate`,
  MAX(h.`max_heart_rate`) AS `max_heart_rate`,
  MAX(r.`zipcode`) AS `zipcode`,
  (MIN(r.`latitude`) + MAX(r.`latitude`)) / 2 AS `latitude`,
  (MIN(r.`longitude`) + MAX(r.`longitude`)) / 2 AS `longitude`
FROM ${realtime_stream} r
INNER JOIN ${historical_table} h ON r.`user_id` = h.`user_id`
WINDOW TUMBLING (SIZE ${window_ms} MILLISECONDS, GRACE PERIOD ${grace_ms} MILLISECONDS)
GROUP BY r.`user_id`
HAVING COUNT(*) >= ${minimum_events}
  AND MAX(r.`latitude`) - MIN(r.`latitude`) <= ${still_degrees}
  AND MAX(r.`longitude`) - MIN(r.`longitude`) <= ${still_degrees}
  AND (AVG(r.`heart_rate`) < MIN(h.`min_heart_rate`) OR AVG(r.`heart_rate`) > MAX(h.`max_heart_rate`))
EMIT FINAL;
