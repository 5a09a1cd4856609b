"""MLflow's pages as `intermoe ui` serves them: they begin in the view for trainings.

MLflow remembers the view in the browser and begins in the one for language models, where the runs of an experiment are
not shown; no tag of an experiment and no option of the server changes that. So its first page brings a script that
notes the other view in a browser that has none noted. The switch "GenAI | Model training" works as before.
"""

import json

from flask import Response, request
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app

# Keys of the browser's local storage, and what they hold at first: the view, and that the panel of the assistant has
# been opened once by itself.
_FIRST = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
_SCRIPT = (
    "<script>for (const [key, value] of Object.entries("
    + json.dumps(_FIRST)
    + ")) if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));</script>"
)

__all__ = ["app", "flask_app"]


@flask_app.after_request
def begin_with_trainings(response: Response) -> Response:
    """Put the script into the first page, before those that read what it notes."""
    if request.path == "/" and response.mimetype == "text/html":
        response.direct_passthrough = False
        response.set_data(response.get_data().replace(b"<head>", b"<head>" + _SCRIPT.encode(), 1))
        # MLflow's own page is one of a file that the browser may keep.
        response.headers.pop("ETag", None)
        response.headers.pop("Last-Modified", None)
    return response
