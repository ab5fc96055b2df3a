# Two stages: pip, its caches and the tools that only a build needs stay in the first. The second is a slim Debian with
# Python, the virtual environment and moodreel. Measured sizes, and why each thing is left out: docs/operate.md, "Image".
FROM python:3.11-slim-bookworm AS build

# The package index to install torch from, such as one with CUDA builds. Empty: the CPU build.
ARG TORCH_INDEX_URL=""
# Further requirements files, such as requirements-extras.txt.
ARG EXTRA_REQUIREMENTS=""
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null
COPY requirements*.txt /
RUN python -m venv /opt/venv && torch=$(grep '^torch==' requirements.txt) && pip="/opt/venv/bin/pip install --no-cache-dir -q" \
 && if [ -n "$TORCH_INDEX_URL" ]; then $pip --index-url "$TORCH_INDEX_URL" "$torch"; \
    else $pip --no-deps "$torch+cpu" || $pip --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch"; fi \
 && $pip --require-hashes -r requirements-lock.txt && for file in $EXTRA_REQUIREMENTS; do $pip -r "$file"; done \
 && find /opt/venv -name __pycache__ -prune -exec rm -r {} +
# No request and no command needs these: the libraries' own tests, torch's C++ headers, programs and compiler (with the
# packages that only it imports), the symbol tables of the three largest libraries, and what installs packages.
RUN cd /opt/venv/lib/python3.11/site-packages \
 && rm -r torch/test torch/include torch/_inductor && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so mediapipe/tasks/c/libmediapipe.so \
 && /opt/venv/bin/pip uninstall -q -y sympy mpmath networkx hf-xet setuptools pip


FROM python:3.11-slim-bookworm

ARG VERSION=0.2.0
ARG REVISION=""
LABEL org.opencontainers.image.title="moodreel" \
      org.opencontainers.image.description="Read the emotion that a face shows in a short video, and make its looping cover" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"

# OpenCV links libGL and GLib, MediaPipe links EGL and GLES. A slim Debian has none of them. Nothing is drawn with them, so
# Mesa's drivers and what these alone use (LLVM, Z3, libxml2, ICU) are deleted: 200 MB.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2 >/dev/null \
 && cd /usr/lib/*-linux-gnu && rm -r dri libLLVM* libz3.so* libxml2.so* libicu* \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home moodreel
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PORT=5000
WORKDIR /app
COPY . .
# Compile what the service imports, and nothing else: the user below, and a read-only root file system, cannot do it later.
RUN python -c "import api.preload as p; p.import_libraries(); import api.app, moodreel.__main__" \
 && mkdir -p data logs model_store/downloaded && chown moodreel data logs model_store/downloaded && chmod 700 data

USER moodreel
VOLUME ["/app/data", "/app/logs", "/app/model_store/downloaded"]
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["gunicorn", "--config", "api/gunicorn.conf.py", "api.wsgi:app"]
