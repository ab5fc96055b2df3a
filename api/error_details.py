"""A detail for each code of an error. The OpenAPI document shows it; the service sends it, or one that fits better."""

ERROR_DETAILS = {
    "bad_request": "This is not an HTTP/1.0 or 1.1 request. Correct the method, address and version in its first line.",
    "bad_json": 'The body is empty. Send a JSON object, such as {"encoding": "base64", "content": "…"}.',
    "bad_date": "Send the date header, or x-date from a browser, in ISO 8601 with a zone, such as "
    "2025-08-16T12:34:56Z.",
    "bad_header": "x-client-id takes at most 128 printable characters.",
    "ambiguous_filters": "Send the filters as a query string or as a JSON body, not both.",
    "unauthorized": "Send an API key in the x-api-key header.",
    "invalid_token": "The token is not valid for this service. Sign in again and send the new one.",
    "token_expired": "The token has expired. Sign in again, or refresh tokens before they expire.",
    "forbidden": "This needs an API key, or a token with the role ADMIN.",
    "noncommercial_model": "The weights of 'audio-visual' are not for commercial use. Leave model out, or ask "
    "the operator of this service to set NONCOMMERCIAL_MODELS=1.",
    "not_found": "There is nothing at this address. /openapi.json lists all addresses.",
    "method_not_allowed": "This address does not support the method. The Allow header lists the methods that it "
    "supports.",
    "requested_range_not_satisfiable": "The file is shorter than the range. Content-Range has its length: ask for "
    "less, or leave Range out.",
    "uri_too_long": "The first line of the request has more than 8,190 bytes. Send the options in the body.",
    "expectation_failed": "The Expect header supports only 100-continue. Send that, or leave the header out.",
    "headers_too_large": "There are more than 100 headers, or one has more than 8,190 bytes. Send fewer or shorter "
    "ones.",
    "not_implemented": "The Transfer-Encoding header supports only chunked. Send that, or leave the header out.",
    "companion_off": "The companion is off. The operator of this service can set LLM_BASE_URL and LLM_MODEL.",
    "companion_bad_answer": "The companion's model sent no usable answer. Try again.",
    "companion_timeout": "The companion's model took too long. Try again, or write less.",
    "companion_unavailable": "The companion's model cannot be reached now. Try again in a minute.",
    "client_closed_request": "The caller closed the connection.",
    "not_started": "Send control with the action start before the first frame.",
    "request_in_progress": "The call with this Idempotency-Key is not answered yet. Wait a little.",
    "too_large": "The body may have at most 101 MB. Send a shorter clip, or compress it to 720p first: a minute of "
    "1080p is about 130 MB, a minute of 720p about 60 MB. Base64 is a third larger than a form.",
    "video_too_long": "The video runs longer than 60 seconds or 3600 frames. Send a shorter one.",
    "video_too_big": "A frame has more than 8294400 pixels. Record at a lower size and send it again.",
    "picture_too_big": "The picture has more than 40000000 pixels. Make it smaller and send it again.",
    "text_too_long": "The text has more than 20,000 characters. Send it in parts.",
    "audio_too_long": "The sound runs longer than 60 seconds. Send a shorter one.",
    "unsupported_media": "This is a picture. Send pictures to POST /api/detect, videos here.",
    "invalid_request": "encoding: Missing data for required field. Correct it and send it again.",
    "bad_base64": "content is not base64. Encode the whole file as it is.",
    "video_corrupt": "The video is damaged or incomplete: nothing in it can be decoded. Send it again.",
    "video_too_short": "The video has no frames. Record at least a second and send it again.",
    "picture_corrupt": "The picture is damaged or incomplete and cannot be read. Send it again.",
    "text_empty": "There are no words in the text. Send some, or an emoji.",
    "no_face": "No face was found in the clip. Hold the camera at arm's length, facing you, in good light.",
    "audio_corrupt": "The sound is damaged or incomplete: none of it can be decoded. Send it again.",
    "no_face_no_sound": "No face and no audible sound were found in the clip. Face the camera in good light, or turn "
    "the microphone on.",
    "idempotency_key_reused": "This Idempotency-Key was used for another call. Make a new key for each call, and keep "
    "it when you repeat one.",
    "upgrade_required": "This address accepts only WebSockets, version 13: connect with ws:// or wss://. For HTTP, "
    "use POST /api/text.",
    "rate_limited": "Each caller may make 60 requests a minute. Wait the number of seconds in Retry-After.",
    "internal": "Something went wrong on the server. Try again. If it happens again, report the request_id.",
    "overloaded": "Too many requests are being processed. Try again in a few seconds.",
    "not_ready": "The call log cannot be written: the disk is full. Waiting rows: 12.",
    "log_unavailable": "Calls are refused now, because the call log cannot be written. Try again soon.",
    "keys_unavailable": "The token cannot be verified now, because its issuer does not answer. Try again soon.",
    "storage_unavailable": "The history is not available right now. Try again in a minute.",
    "model_missing": "This service has no face-and-voice model. Its operator can name one with CHECKPOINT_PATH, or set "
    "EMO_MOCK=1 to test clients without one. Until then, use /predict, which reads faces.",
}
