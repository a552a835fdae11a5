"""Charts as inline SVG, made by pure functions without a plotting library: no script, no link, every text escaped.

Each is `role=img` with a title and a description that says the numbers, so that nothing is told by a picture alone; every
colour is a token of the stylesheet. `name` is unique on a page: ids are made of it.
"""

from selfplay.web.charts.bars import Part, Step, funnel, stacked_bars
from selfplay.web.charts.frame import nice_ticks, standalone
from selfplay.web.charts.heat import heat_map
from selfplay.web.charts.histogram import Bin, histogram
from selfplay.web.charts.lines import Curve, Point, line_chart
from selfplay.web.charts.scatter import scatter

__all__ = [
    "Bin", "Curve", "Part", "Point", "Step", "funnel", "heat_map", "histogram", "line_chart", "nice_ticks",
    "scatter", "stacked_bars", "standalone",
]  # fmt: skip
