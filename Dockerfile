# Pilotlight as a container: HTTP server, RunPod's queue worker, RunPod's load-balanced worker. See docs/image.md.

ARG BASE=python:3.11-slim-bookworm


FROM ${BASE} AS requirements
COPY pyproject.toml /
# Apart, so that a change elsewhere in pyproject.toml installs nothing anew. A worker writes the ledger and never reads
# it, for which duckdb would be 68 MB.
RUN mkdir /requirements && python3 -c "import tomllib; \
    project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
    needs = [need for need in project['dependencies'] if not need.startswith(('duckdb', 'numpy'))]; \
    open('/requirements/base.txt', 'w').write('\n'.join(needs)); \
    open('/requirements/warmer.txt', 'w').write('\n'.join(project['optional-dependencies']['warmer'])); \
    open('/requirements/gpu.txt', 'w').write('\n'.join(project['optional-dependencies']['gpu']))"
COPY constraints.txt /requirements/


FROM ${BASE} AS native
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && python3 -m venv /tools \
    && /tools/bin/pip install -c /requirements/constraints.txt setuptools
WORKDIR /source
COPY setup.py ./
COPY kernels/cpu/source kernels/cpu/source
RUN /tools/bin/python setup.py --quiet build_ext --build-lib /native


FROM ${BASE} AS foundation
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && useradd --uid 1000 --create-home pilotlight
ARG TORCH_INDEX=
ARG ARCH=
# Of torch, what only its developers and C++ programs use goes: a sixth of a CPU image. Byte-code is not compared with its
# source when it is read, so it holds whatever becomes of the files' times.
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/venv \
    && cd /requirements \
    && python3 -m pip --python /opt/venv/bin/python install --no-compile -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r base.txt ${ARCH:+-r gpu.txt} \
    && cd /opt/venv/lib/python3*/site-packages \
    && echo /opt/pilotlight > pilotlight.pth \
    && rm -rf torch/include torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q -j 0 -x torch/testing/_internal \
        --invalidation-mode unchecked-hash /opt/venv/lib


FROM foundation AS builder
WORKDIR /source
COPY . .
# There is no compiler here, so the CPU kernels are left out; they come from a stage of their own. What a worker never
# imports is not compiled to byte-code, which is three quarters of what a change of code ships.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python install --no-compile --no-deps --target /opt/pilotlight . \
    && PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q -x '/warmup/|/handler/(local|billing/reading)/' \
        --invalidation-mode unchecked-hash /opt/pilotlight
ARG MODEL=demo
ARG MODEL_REVISION=
ARG QUANTIZE=none
ARG ARCH=
WORKDIR /
# Last, what is large and seldom changes is parted from what is small and often does; the same files are the same layer
# once their times are, too.
RUN --mount=type=secret,id=HF_TOKEN --mount=type=cache,target=/root/.cache/huggingface \
    if [ -f /run/secrets/HF_TOKEN ]; then HF_TOKEN=$(cat /run/secrets/HF_TOKEN) && export HF_TOKEN; fi \
    && /opt/pilotlight/bin/pilotlight bake "$MODEL" "/baked/$MODEL" --quantize "$QUANTIZE" \
        ${MODEL_REVISION:+--revision "$MODEL_REVISION"} ${ARCH:+--arch "$ARCH"} \
    && mkdir -p "/weights/$MODEL" /demo/engine \
    && mv "/baked/$MODEL/model.safetensors" "/weights/$MODEL" \
    && mv /opt/pilotlight/engine/demo /demo/engine \
    && find /weights /baked /demo /opt/pilotlight -exec touch --no-dereference --date @0 {} +


# What keeps an endpoint warm: `docker build --target warmer`. It needs no torch, and reads the ledger without duckdb.
FROM ${BASE} AS warmer-foundation
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/venv \
    && cd /requirements \
    && python3 -m pip --python /opt/venv/bin/python install --no-compile -c constraints.txt -r warmer.txt \
    && cd /opt/venv/lib/python3*/site-packages \
    && echo /opt/pilotlight > pilotlight.pth \
    && rm -rf numpy/*/tests numpy/tests \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sso ! -name sts ! -name sso-oidc \
        -exec rm -r {} + \
    && useradd --uid 1000 --create-home pilotlight
COPY pilotlight.py pyproject.toml /opt/pilotlight/
COPY engine/*.py /opt/pilotlight/engine/
COPY handler /opt/pilotlight/handler/
COPY warmup /opt/pilotlight/warmup/
RUN PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib /opt/pilotlight


FROM warmer-foundation AS warmer
ENV PATH=/opt/venv/bin:$PATH \
    PILOTLIGHT_WARM_METRICS_HOST=0.0.0.0 \
    PILOTLIGHT_WARM_STATE=/state \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN mkdir /state && chown 1000:1000 /state
USER 1000:1000
WORKDIR /home/pilotlight
VOLUME /state
ENTRYPOINT ["python", "-m", "pilotlight", "warm"]
CMD ["run"]


FROM foundation AS runtime
COPY --from=builder /weights /models
COPY --from=builder /demo /opt/pilotlight
COPY --from=native /native /opt/pilotlight
COPY --from=builder /baked /models
COPY --from=builder /opt/pilotlight /opt/pilotlight

ARG MODEL=demo
# MODEL_NAME is the weaker of the model's two names: whatever an endpoint sets wins. Engines kill ten seconds after a stop.
ENV PATH=/opt/venv/bin:/opt/pilotlight/bin:$PATH \
    MODEL_NAME=/models/$MODEL \
    PILOTLIGHT_HOST=0.0.0.0 \
    PILOTLIGHT_GRACE=8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /home/pilotlight
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=7m CMD ["python", "-m", "handler.healthcheck"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "handler"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Pilotlight" \
    org.opencontainers.image.description="A serverless GPU function for language models" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.revision=$REVISION
