"""3. What comes in: an order that is a pure function of position, and the batches it makes."""

from treadle.data.bucketed import bucket
from treadle.data.cached import cache
from treadle.data.images import Images
from treadle.data.infinite import Infinite, load_by_random_id
from treadle.data.mapped import map
from treadle.data.mixed import mix
from treadle.data.order import Weighted
from treadle.data.padded import Padded, pad
from treadle.data.sources import Batches, Samples
from treadle.data.zipped import zip

__all__ = ["Batches", "Images", "Infinite", "Padded", "Samples", "Weighted", "bucket", "cache", "load_by_random_id", "map", "mix", "pad", "zip"]
