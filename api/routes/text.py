"""POST /api/text: the emotions that the words of a text, or of several, show."""

from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify

from api import history_recorder, log_fields, metrics
from api.errors import to_item_error
from api.middleware import request_body
from api.openapi import TEXT_CODES, GuardedBlueprint, one_of
from api.schemas.texts import TextPredictionBatchSchema, TextPredictionSchema, TextQuery, TextSchema
from api.services import services
from moodreel.errors import MoodreelError

blueprint = GuardedBlueprint("text", __name__, dated=False, description="What the words of a text show")


@blueprint.route("/api/text", methods=["POST"])
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": TextSchema}}})
@blueprint.response(
    200,
    one_of(TextPredictionSchema, TextPredictionBatchSchema),
    headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER},
)
@blueprint.error_responses(*TEXT_CODES)
@blueprint.query(TextQuery)
def text(query: dict[str, Any]) -> Response:
    """Tell the emotions that a text shows, in Ekman's six and neutral.

    For a list of texts the answer is `{"results": […], "count": n}`: what is wrong with one of them stands in its
    place, and the call succeeds.
    """
    given = TextSchema().load(request_body.read_json('{"text": "…"}'))["text"]
    return _answer(given, query["model"]) if isinstance(given, str) else _answer_all(given, query["model"])


def _answer(given: str, model: str | None) -> Response:
    [reading] = services().text_pipeline.predict([given], model=model)
    log_fields.add(prediction=reading.label, confidence=round(reading.score, 4), model=reading.model.name)
    history_recorder.record_text(reading)
    return metrics.with_server_timing(jsonify(TextPredictionSchema().dump(reading)), reading.label, reading.timings)


def _answer_all(given: Sequence[str], model: str | None) -> Response:
    readings = services().text_pipeline.predict_batch(given, model=model)
    log_fields.add(model=readings.model.name)
    for result in readings.results:
        if not isinstance(result, MoodreelError):
            history_recorder.record_text(result)
    results = [
        to_item_error(result) if isinstance(result, MoodreelError) else TextPredictionSchema().dump(result)
        for result in readings.results
    ]
    return metrics.with_server_timing(jsonify({"results": results, "count": len(results)}), None, readings.timings)
