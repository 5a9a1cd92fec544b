"""Places in New York: postal codes with their middles, and distances.

The middles are rounded to about 100 m. The nearest middle stands for the postal code of a position; real boundaries are not
needed for what is shown.
"""

from __future__ import annotations

import numpy as np

from heartwatch.simulate.draws import Floats, Ints

METRES_PER_DEGREE = 111_195.0
"""Length of a degree of latitude on a sphere of 6,371 km radius, metres."""

_ZIP_MIDDLES: tuple[tuple[int, float, float], ...] = (
    (10001, 40.7506, -73.9972),
    (10002, 40.7157, -73.9863),
    (10003, 40.7318, -73.9892),
    (10004, 40.7038, -74.0131),
    (10005, 40.7061, -74.0087),
    (10006, 40.7094, -74.0131),
    (10007, 40.7138, -74.0079),
    (10009, 40.7264, -73.9786),
    (10010, 40.7390, -73.9826),
    (10011, 40.7420, -74.0005),
    (10012, 40.7256, -73.9983),
    (10013, 40.7202, -74.0047),
    (10014, 40.7340, -74.0054),
    (10016, 40.7453, -73.9781),
    (10017, 40.7524, -73.9726),
    (10018, 40.7553, -73.9932),
    (10019, 40.7658, -73.9853),
    (10020, 40.7589, -73.9794),
    (10021, 40.7693, -73.9588),
    (10022, 40.7586, -73.9675),
    (10023, 40.7764, -73.9826),
    (10024, 40.7870, -73.9745),
    (10025, 40.7988, -73.9682),
    (10026, 40.8025, -73.9530),
    (10027, 40.8117, -73.9530),
    (10028, 40.7765, -73.9534),
    (10029, 40.7917, -73.9441),
    (10030, 40.8183, -73.9427),
    (10031, 40.8247, -73.9500),
    (10032, 40.8386, -73.9427),
    (10033, 40.8506, -73.9340),
    (10034, 40.8672, -73.9215),
    (10035, 40.7996, -73.9302),
    (10036, 40.7594, -73.9896),
    (10037, 40.8129, -73.9374),
    (10038, 40.7095, -74.0021),
    (10039, 40.8308, -73.9361),
    (10040, 40.8583, -73.9297),
    (10451, 40.8206, -73.9239),
    (10453, 40.8527, -73.9129),
    (10458, 40.8626, -73.8882),
    (10463, 40.8806, -73.9065),
    (10472, 40.8297, -73.8693),
    (11101, 40.7471, -73.9396),
    (11103, 40.7627, -73.9133),
    (11104, 40.7446, -73.9200),
    (11201, 40.6943, -73.9903),
    (11205, 40.6945, -73.9663),
    (11206, 40.7019, -73.9424),
    (11211, 40.7127, -73.9531),
    (11215, 40.6625, -73.9869),
    (11217, 40.6824, -73.9788),
    (11220, 40.6412, -74.0133),
    (11222, 40.7277, -73.9476),
    (11226, 40.6465, -73.9571),
    (11231, 40.6779, -74.0051),
    (11238, 40.6790, -73.9643),
    (11372, 40.7517, -73.8836),
    (11373, 40.7388, -73.8785),
    (11375, 40.7206, -73.8462),
)
_ZIPS: Ints = np.array([row[0] for row in _ZIP_MIDDLES], dtype=np.int64)
_LATITUDES: Floats = np.array([row[1] for row in _ZIP_MIDDLES])
_LONGITUDES: Floats = np.array([row[2] for row in _ZIP_MIDDLES])
COUNT = len(_ZIP_MIDDLES)


def middle(index: Ints) -> tuple[Floats, Floats]:
    """Return latitude and longitude of the middle of the `index`-th postal code (0 to COUNT - 1)."""
    return _LATITUDES[index], _LONGITUDES[index]


def nearest_zipcode(latitude: Floats, longitude: Floats) -> Ints:
    """Return the postal code whose middle is nearest, for each position (degrees)."""
    shrink = np.cos(np.radians(latitude))
    best = np.full(latitude.shape, np.inf)
    found = np.zeros(latitude.shape, dtype=np.int64)
    for zipcode, lat, lon in _ZIP_MIDDLES:
        square = (latitude - lat) ** 2 + ((longitude - lon) * shrink) ** 2
        closer = square < best
        best = np.where(closer, square, best)
        found = np.where(closer, zipcode, found)
    return found


def moved(latitude: Floats, longitude: Floats, north: Floats, east: Floats) -> tuple[Floats, Floats]:
    """Return the positions that lie `north` and `east` metres away from the given ones (degrees, WGS 84)."""
    return latitude + north / METRES_PER_DEGREE, longitude + east / (METRES_PER_DEGREE * np.cos(np.radians(latitude)))


def metres_between(latitude: Floats, longitude: Floats, to_latitude: Floats, to_longitude: Floats) -> Floats:
    """Return the distances in metres; flat-earth formula, good to 0.1 % within a city."""
    north = (to_latitude - latitude) * METRES_PER_DEGREE
    east = (to_longitude - longitude) * METRES_PER_DEGREE * np.cos(np.radians((latitude + to_latitude) / 2))
    return np.hypot(north, east)
