# Two stages: pip and its caches stay in the first. The second is a slim Debian with Python and the virtual environment.
FROM python:3.11-slim-bookworm AS build

# The package index to install torch from, such as one with CUDA builds. Empty: the CPU build.
ARG TORCH_INDEX_URL=""
COPY requirements.txt /
RUN python -m venv /opt/venv && torch=$(grep '^torch==' requirements.txt) && pip="/opt/venv/bin/pip install --no-cache-dir -q" \
 && if [ -n "$TORCH_INDEX_URL" ]; then $pip --index-url "$TORCH_INDEX_URL" "$torch"; \
    else $pip --no-deps "$torch+cpu" || $pip --index-url https://download.pytorch.org/whl/cpu "$torch"; fi \
 && $pip -r requirements.txt \
 && find /opt/venv -name '__pycache__' -prune -exec rm -r {} +


FROM python:3.11-slim-bookworm

# OpenCV links libGL and GLib, MediaPipe links EGL and GLES. A slim Debian has none of them.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home moodreel
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY --chown=moodreel . .
RUN mkdir -p data logs model_store/downloaded && chown moodreel data logs model_store/downloaded && chmod 700 data

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PORT=5000
USER moodreel
# MediaPipe imports matplotlib, whose first import lists the fonts. This does it now, not at the first start.
RUN python -c "import mediapipe"
VOLUME ["/app/data", "/app/logs", "/app/model_store/downloaded"]
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["gunicorn", "--config", "api/gunicorn.conf.py", "api.wsgi:app"]
