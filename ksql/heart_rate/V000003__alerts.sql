-- Users who did not move during a window while their average heart rate was outside their personal range.
-- Grain: one row per user and window, written once, after the window's grace period.
-- Not moving: the window's positions lie in a box of at most ${still_degrees} degrees on both sides, and there are at least
-- ${minimum_events} of them (one position alone proves nothing).
-- RETENTION: how long the server keeps a window, in event time behind the newest event of its partition. Without it ksqlDB keeps a window
-- for size and grace period only, looks for closed windows at most once a second, and never writes those that an event far ahead (a
-- device whose clock is wrong, a partition that was silent, a topic read from its start) has moved out of the store before the look. A
-- day is longer than the jumps that devices make. The first look walks from the year 1970 to now in steps of half the retention: with a
-- day that is over at once, with seconds it takes minutes. It must not be less than size and grace period together.
-- ksqlDB's own migrations tool (`ksql-migrations`) can't replace a variable in a WINDOW clause: write numbers there before you give it
-- this file. `heartwatch` replaces the variables itself.
-- Ahead: one device whose clock is ahead would move its partition's stream time on, and everybody else there would be late. Only what
-- reaches the aggregate moves it, so events that lie more than ${ahead_ms} ms ahead of the server's clock are left out before it. Where
-- the brokers and the embedded engine keep them out already, by the record's own time, this leaves out nothing more.
-- Replaces MD5 7981beb60fa9c48054415f3edabefb03: the same query without the bound of events that are ahead.
-- Replaces MD5 9761a36f20179c9f790d6c41d422f9c6: the same query without RETENTION, which makes the same rows on the embedded engine.
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
WINDOW TUMBLING (SIZE ${window_ms} MILLISECONDS, RETENTION 1 DAY, GRACE PERIOD ${grace_ms} MILLISECONDS)
WHERE r.`event_time` <= FROM_UNIXTIME(UNIX_TIMESTAMP() + ${ahead_ms})
GROUP BY r.`user_id`
HAVING COUNT(*) >= ${minimum_events}
  AND MAX(r.`latitude`) - MIN(r.`latitude`) <= ${still_degrees}
  AND MAX(r.`longitude`) - MIN(r.`longitude`) <= ${still_degrees}
  AND (AVG(r.`heart_rate`) < MIN(h.`min_heart_rate`) OR AVG(r.`heart_rate`) > MAX(h.`max_heart_rate`))
EMIT FINAL;
