# Two stages: the first builds, the second holds Python, the collector and nothing to build with.
FROM python:3.12.12-slim-bookworm AS build

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY collector collector
RUN pip wheel --no-cache-dir --wheel-dir /wheels .
RUN python -m venv /opt/collector \
    && /opt/collector/bin/pip install --no-cache-dir --no-index --find-links /wheels \
        aws-resource-collector

FROM python:3.12.12-slim-bookworm

LABEL org.opencontainers.image.title="aws-resource-collector" \
      org.opencontainers.image.description="Streams SageMaker training jobs of AWS accounts as NDJSON" \
      org.opencontainers.image.licenses="Apache-2.0"

# A numeric user, so that Kubernetes can see that it is not root. It has a home for ~/.aws; /out is
# open to whatever user the container is run as.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin collector \
    && install --directory --mode 1777 /out
COPY --from=build /opt/collector /opt/collector

ENV PATH=/opt/collector/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COLLECTOR_LOG_FORMAT=json \
    COLLECTOR_PROGRESS=off

USER 10001
WORKDIR /out

# Exec form: the collector is process 1 and gets SIGTERM itself.
ENTRYPOINT ["collector"]
CMD ["run"]
