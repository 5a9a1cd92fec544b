"""SQL types, and the values of each: casts, times, arrays; ksqlDB's errors."""
