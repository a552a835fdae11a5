"""Charts as inline SVG, made by pure functions without a plotting library: no script, no link, every text escaped.

Each is `role=img` with a title and a description that says the numbers, so that nothing is told by a picture alone; every
colour is a token of the stylesheet. `name` is unique on a page: ids are made of it.
"""

from selfplay.inspect.web.charts.bars import Part, Step, funnel, stacked_bars
from selfplay.inspect.web.charts.frame import nice_ticks, standalone
from selfplay.inspect.web.charts.heat import heat_map
from selfplay.inspect.web.charts.histogram import Bin, histogram
from selfplay.inspect.web.charts.lines import Curve, Point, line_chart
from selfplay.inspect.web.charts.scatter import scatter

__all__ = [
    "Bin", "Curve", "Part", "Point", "Step", "funnel", "heat_map", "histogram", "line_chart", "nice_ticks",
    "scatter", "stacked_bars", "standalone",
]  # fmt: skip
