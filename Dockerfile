# Two stages: the first builds, the second holds Python, the collector and nothing to build with.
# Another base: --build-arg BASE=... (the same one by its digest, a mirror's).
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS build

WORKDIR /source
COPY config/constraints.txt config/constraints-build.txt ./
# What is installed is what these files name, byte for byte, whatever index it comes from. Settings
# of pip, such as a mirror, are given as a secret (--secret id=pip,src=pip.conf): none is kept.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m venv /build \
    && python -m venv --without-pip /opt/collector \
    && /build/bin/pip install --no-cache-dir --no-compile --only-binary :all: \
        --require-hashes --requirement constraints-build.txt \
    && /build/bin/pip --python /opt/collector/bin/python install --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes --requirement constraints.txt

COPY pyproject.toml README.md LICENSE ./
COPY collector collector
# Compiled here, since nobody can write beside it later; unchecked, so that no date can make it
# stale.
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/collector/bin/python install --no-index --no-deps \
        --no-compile /wheels/*.whl \
    && /build/bin/pip --python /opt/collector/bin/python check \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/collector/lib

FROM ${BASE}

COPY --from=build /opt/collector /opt/collector
# A numeric user, so that Kubernetes can see that it is not root; it has a home for ~/.aws. /out is
# open to whatever user the container is run as. The demo shows that what was built runs, and leaves
# the standard library's modules compiled: the base has them as text alone.
RUN python -m pip uninstall --yes pip setuptools wheel \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin collector \
    && install --directory --mode 1777 /out \
    && /opt/collector/bin/collector demo --jobs 1 --log-level warning > /dev/null

ENV PATH=/opt/collector/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COLLECTOR_LOG_FORMAT=json \
    COLLECTOR_PROGRESS=off

USER 10001:10001
WORKDIR /out

# Exec form: the collector is process 1 and gets SIGTERM itself.
ENTRYPOINT ["collector"]
CMD ["run"]

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="aws-resource-collector" \
      org.opencontainers.image.description="Streams SageMaker training jobs of AWS accounts as NDJSON" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"
