"""Import what is slow to import in a process of the service; fake services are forked from a process that did so.

`prometheus_client` must not be imported here: it reads PROMETHEUS_MULTIPROC_DIR, which each service sets, when it is.
"""

import flask_socketio  # noqa: F401
import sqlite_utils  # noqa: F401

import moodreel.live.scheduler
import moodreel.pipelines.audiovisual
import moodreel.pipelines.image_or_video
import moodreel.pipelines.text
import moodreel.storage.history  # noqa: F401
