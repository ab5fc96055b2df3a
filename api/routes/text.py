"""POST /api/text: the emotions that the words of a text, or of several, show."""

from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify

from api import history_recorder, metrics
from api.errors import as_part
from api.log_fields import record
from api.middleware import request_body
from api.openapi import TEXT_CODES, GuardedBlueprint, one_of
from api.schemas.texts import ReadingSchema, ReadingsSchema, TextQuery, TextSchema
from api.services import services
from moodreel.errors import MoodreelError

blueprint = GuardedBlueprint("text", __name__, dated=False, description="What the words of a text show")


@blueprint.route("/api/text", methods=["POST"])
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": TextSchema}}})
@blueprint.response(
    200, one_of(ReadingSchema, ReadingsSchema), headers={**metrics.SERVER_TIMING, **history_recorder.HISTORY_ID}
)
@blueprint.refuses(*TEXT_CODES)
@blueprint.takes_query(TextQuery)
def text(query: dict[str, Any]) -> Response:
    """Tell the emotions that a text shows, in Ekman's six and neutral.

    For a list of texts the answer is `{"results": […], "count": n}`: what is wrong with one of them stands in its
    place, and the call succeeds.
    """
    given = TextSchema().load(request_body.read_json('{"text": "…"}'))["text"]
    return _answer(given, query["model"]) if isinstance(given, str) else _answer_all(given, query["model"])


def _answer(given: str, model: str | None) -> Response:
    [reading] = services().text_pipeline.predict([given], model=model)
    record(prediction=reading.label, confidence=round(reading.score, 4), model=reading.model.name)
    history_recorder.keep_reading(reading)
    return metrics.observed(jsonify(ReadingSchema().dump(reading)), reading.label, reading.timings)


def _answer_all(given: Sequence[str], model: str | None) -> Response:
    readings = services().text_pipeline.predict_batch(given, model=model)
    record(model=readings.model.name)
    for result in readings.results:
        if not isinstance(result, MoodreelError):
            history_recorder.keep_reading(result)
    results = [
        as_part(result) if isinstance(result, MoodreelError) else ReadingSchema().dump(result)
        for result in readings.results
    ]
    return metrics.observed(jsonify({"results": results, "count": len(results)}), None, readings.timings)
