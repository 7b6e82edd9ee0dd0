# A partner store's node: training, and the store's data. Build from the repository's root:
#   make image-store
# For production, name the base by its digest: make image-store BASE=docker.io/library/python@sha256:...
ARG PYTHON=docker.io/library/python:3.11.11-slim-bookworm

FROM ${PYTHON} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch without CUDA is a tenth of the size; name another index for a machine with a GPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Build dependencies are pinned too: pip hands the constraints on to its isolated builds.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Alone, so that no other package can come from that index.
RUN python -m venv /opt/hanse \
    && /opt/hanse/bin/pip install --index-url "${TORCH_INDEX}" --no-deps torch
COPY release/ release/
COPY common/ common/
COPY client/ client/
COPY server/ server/
COPY simulations/ simulations/
RUN /opt/hanse/bin/pip install '.[client,postgres,metrics]'

FROM ${PYTHON}
RUN groupadd --system --gid 10001 hanse \
    && useradd --system --uid 10001 --gid hanse --home-dir /var/lib/hanse --create-home hanse \
    && chmod 0700 /var/lib/hanse
COPY --from=build /opt/hanse /opt/hanse
ENV PATH=/opt/hanse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    HF_HUB_OFFLINE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
USER 10001:10001
WORKDIR /var/lib/hanse
VOLUME /var/lib/hanse
# Nothing is exposed: a node calls the coordinator, nobody calls the node.
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s --retries=3 \
    CMD ["hanse", "store", "metrics", "--folder", "/var/lib/hanse", "--check"]
ENTRYPOINT ["hanse"]
CMD ["store", "join", "--folder", "/var/lib/hanse"]
