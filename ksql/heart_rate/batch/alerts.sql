-- The alerts, computed at one go from the raw topics by DuckDB: the independent answer that the query's alerts must equal.
-- Grain: one row a user and window that the migrations' query reports; `closed` says whether later events have closed the window.
-- Tables: realtime ("partition", "offset", "timestamp": the record's own, ms; event_key, the event's fields), historical (event_key,
-- the row's fields).
-- Late: an event whose window ended `grace_ms` or more before the largest event time that reached the join in its partition, the
-- event itself included. Events of users without a historical row never reach the join and move no time.
-- Ahead: an event that lies more than `max_ahead_ms` ahead of its record's own time is left out.
WITH joined AS (
  SELECT
    r."partition",
    r."offset",
    r.user_id,
    epoch_ms(r.event_time) AS event_ms,
    r.zipcode,
    r.latitude,
    r.longitude,
    r.heart_rate,
    h.min_heart_rate,
    h.max_heart_rate
  FROM realtime r
  INNER JOIN historical h ON r.event_key = h.event_key
  WHERE epoch_ms(r.event_time) <= r."timestamp" + $max_ahead_ms
),
timed AS (
  SELECT
    *,
    event_ms - event_ms % $window_ms AS window_start_ms,
    max(event_ms) OVER (PARTITION BY "partition" ORDER BY "offset" ROWS UNBOUNDED PRECEDING) AS stream_time,
    max(event_ms) OVER (PARTITION BY "partition") AS last_stream_time
  FROM joined
)
SELECT
  user_id,
  make_timestamp_ms(window_start_ms) AS window_start,
  make_timestamp_ms(window_start_ms + $window_ms) AS window_end,
  count(*) AS event_count,
  avg(heart_rate) AS avg_heart_rate,
  min(min_heart_rate) AS min_heart_rate,
  max(max_heart_rate) AS max_heart_rate,
  max(zipcode) AS zipcode,
  (min(latitude) + max(latitude)) / 2 AS latitude,
  (min(longitude) + max(longitude)) / 2 AS longitude,
  max(last_stream_time) >= window_start_ms + $window_ms + $grace_ms AS closed
FROM timed
WHERE window_start_ms + $window_ms + $grace_ms > stream_time
GROUP BY user_id, window_start_ms
HAVING count(*) >= $minimum_events
  AND max(latitude) - min(latitude) <= $still_degrees
  AND max(longitude) - min(longitude) <= $still_degrees
  AND (avg(heart_rate) < min(min_heart_rate) OR avg(heart_rate) > max(max_heart_rate))
