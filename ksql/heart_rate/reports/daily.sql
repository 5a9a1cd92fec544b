-- What one day's samples and alerts say of each user, hour by hour (UTC), by DuckDB.
-- Grain: one row a user and hour in which there is a sample or an alert.
-- Tables: realtime (the day's samples), alerts (the day's alerts), historical (own ranges).
-- A sample stands for the time until the user's next one, up to $gap_seconds; where the next one comes later there is a gap, counted
-- in the hour in which it begins. Time before a user's first sample of the day and after the last one is no gap: nothing tells a
-- device that was switched off from one that was never there.
WITH spans AS (
  SELECT
    user_id,
    event_time,
    heart_rate,
    coalesce(
      epoch_ms(lead(event_time) OVER (PARTITION BY user_id ORDER BY event_time)) - epoch_ms(event_time), 0
    ) / 1000.0 AS seconds
  FROM realtime
),
hours AS (
  SELECT
    s.user_id,
    date_trunc('hour', s.event_time) AS hour,
    count(*) AS events,
    sum(least(s.seconds, $gap_seconds)) AS observed_seconds,
    coalesce(
      sum(least(s.seconds, $gap_seconds)) FILTER (s.heart_rate < h.min_heart_rate OR s.heart_rate > h.max_heart_rate), 0
    ) AS outside_seconds,
    count(*) FILTER (s.seconds > $gap_seconds) AS gaps,
    coalesce(sum(s.seconds) FILTER (s.seconds > $gap_seconds), 0) AS gap_seconds,
    sum(s.heart_rate) AS heart_rate_sum,
    min(s.heart_rate) AS lowest_heart_rate,
    max(s.heart_rate) AS highest_heart_rate,
    count(*) FILTER (h.user_id IS NULL) AS events_without_range
  FROM spans s
  LEFT JOIN historical h ON s.user_id = h.user_id
  GROUP BY ALL
),
alarms AS (
  SELECT user_id, date_trunc('hour', window_start) AS hour, count(*) AS alerts
  FROM alerts
  GROUP BY ALL
)
SELECT
  coalesce(h.user_id, a.user_id) AS user_id,
  coalesce(h.hour, a.hour) AS hour,
  coalesce(h.events, 0) AS events,
  coalesce(a.alerts, 0) AS alerts,
  coalesce(h.observed_seconds, 0) AS observed_seconds,
  coalesce(h.outside_seconds, 0) AS outside_seconds,
  coalesce(h.gaps, 0) AS gaps,
  coalesce(h.gap_seconds, 0) AS gap_seconds,
  h.heart_rate_sum / h.events AS mean_heart_rate,
  h.lowest_heart_rate,
  h.highest_heart_rate,
  coalesce(h.events_without_range, 0) AS events_without_range
FROM hours h
FULL JOIN alarms a ON h.user_id = a.user_id AND h.hour = a.hour
