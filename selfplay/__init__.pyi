from selfplay.core.version import __version__ as __version__
from selfplay.inspect.query.api import open_run as open_run
