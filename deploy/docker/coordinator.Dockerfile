# The coordinator: no torch, no store's code runs here. Build from the repository's root:
#   make image-coordinator
# For production, name the base by its digest: make image-coordinator BASE=docker.io/library/python@sha256:...
ARG PYTHON=docker.io/library/python:3.11.11-slim-bookworm

FROM ${PYTHON} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Build dependencies are pinned too: pip hands the constraints on to its isolated builds.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY release/ release/
COPY common/ common/
COPY client/ client/
COPY server/ server/
COPY simulations/ simulations/
RUN python -m venv /opt/hanse && /opt/hanse/bin/pip install '.[server,metrics]'

FROM ${PYTHON}
RUN groupadd --system --gid 10001 hanse \
    && useradd --system --uid 10001 --gid hanse --home-dir /var/lib/hanse --create-home hanse \
    && chmod 0700 /var/lib/hanse
COPY --from=build /opt/hanse /opt/hanse
ENV PATH=/opt/hanse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
USER 10001:10001
WORKDIR /var/lib/hanse
VOLUME /var/lib/hanse
# What stores connect to; nothing else of it is for others to reach.
EXPOSE 9443
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s --retries=3 \
    CMD ["hanse", "server", "metrics", "--folder", "/var/lib/hanse", "--check"]
ENTRYPOINT ["hanse"]
CMD ["server", "up", "--folder", "/var/lib/hanse"]
