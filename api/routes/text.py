"""POST /api/text: the emotions in one text or in several."""

from collections.abc import Sequence

from flask import Response, jsonify

from api import analysis_recorder, request_parsing
from api.errors import to_item_error
from api.openapi import ANALYSIS_CODES, GuardedBlueprint
from api.schemas.texts import TextPredictionBatchSchema, TextPredictionSchema, TextSchema
from api.services import services
from moodreel.errors import MoodreelError

_ONE_OR_SEVERAL = {"oneOf": [TextPredictionSchema, TextPredictionBatchSchema]}

blueprint = GuardedBlueprint("text", __name__, dated=False, description="The emotions in a text")


@blueprint.route("/api/text", methods=["POST"])
@blueprint.doc(
    operationId="classifyText", requestBody={"required": True, "content": {"application/json": {"schema": TextSchema}}}
)
@blueprint.response(200, _ONE_OR_SEVERAL, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*ANALYSIS_CODES, "text_too_long", "text_empty")
@blueprint.document_query(TextSchema)
def text() -> Response:
    """Predict the emotions in a text: Ekman's six, and neutral.

    For a list of texts the response is `{"results": […], "count": n}`. If one of them cannot be predicted, its result
    is a problem, and the request still succeeds.
    """
    options = request_parsing.load_options(TextSchema(), request_parsing.read_json('{"text": "…"}', analyzed=True))
    texts, model = options["text"], options["model"]
    return _predict(texts, model) if isinstance(texts, str) else _predict_batch(texts, model)


def _predict(text: str, model: str | None) -> Response:
    [result] = services().text_pipeline.predict([text], model=model)
    response = jsonify(TextPredictionSchema().dump(result))
    return analysis_recorder.respond(analysis_recorder.from_text(result), response)


def _predict_batch(texts: Sequence[str], model: str | None) -> Response:
    batch = services().text_pipeline.predict_batch(texts, model=model)
    results = [
        to_item_error(result) if isinstance(result, MoodreelError) else TextPredictionSchema().dump(result)
        for result in batch.results
    ]
    return analysis_recorder.respond_batch(
        [analysis_recorder.from_text(result) for result in batch.results if not isinstance(result, MoodreelError)],
        jsonify({"results": results, "count": len(results)}),
        model=batch.model.name,
        timings=batch.timings,
    )
