from selfplay.api import fork as fork
from selfplay.api import resume as resume
from selfplay.api import start as start
from selfplay.core.version import __version__ as __version__
from selfplay.dataset_selection.api import select as select
from selfplay.inspect.query.api import open_run as open_run
