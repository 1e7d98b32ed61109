# Car Identifier in one image: TorchServe, the gateway and the bundled model. docs/container.md says
# how to run it. `make image` builds it; so does `docker build -t car-identifier .`
#
#   BASE      the Debian 12 to build on, by digest for a build that can be repeated
#   TORCH     cpu, or cuda for archives that torch runs on an NVIDIA GPU (several GB more)
#   --build-context wheels=FOLDER   a folder with wheels to install from, the CPU build of torch say
ARG BASE=debian:bookworm-slim

# Empty, unless a build context of this name is given.
FROM scratch AS wheels

FROM ${BASE} AS build
ARG TORCH=cpu
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}
# What BASE's digest and Debian's own signatures don't pin would only break the build one day.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3.11-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/car-identifier
RUN python3.11 -m venv .venv
# Only what decides what is installed: a change of the code costs no second download.
COPY pyproject.toml constraints.txt ./
COPY deploy/__init__.py deploy/bootstrap.py deploy/
COPY deploy/container/install.py deploy/container/trim.py deploy/container/
RUN --mount=type=bind,from=wheels,target=/wheels \
    PYTHONPATH=. .venv/bin/python -B deploy/container/install.py "${TORCH}" /wheels
RUN .venv/bin/python -B deploy/container/trim.py .venv
COPY config.properties metrics.yaml LICENSE /service/
COPY deploy /service/deploy
COPY client /service/client
COPY gateway /service/gateway
COPY model_store /service/model_store
RUN .venv/bin/python -B deploy/container/trim.py /service

FROM ${BASE}
# procps for `kill`: without it TorchServe can't end a worker, and no version could be swapped.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends procps python3.11 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && groupadd --gid 10001 carid \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin carid \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/car-identifier
COPY --from=build /opt/car-identifier/.venv /opt/car-identifier/.venv
COPY --from=build /service /opt/car-identifier
WORKDIR /opt/car-identifier
COPY --chmod=0755 deploy/container/carid .venv/bin/carid

ENV PATH=/opt/car-identifier/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/car-identifier \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CARID_HOST=0.0.0.0 \
    CARID_RUN_DIR=/var/lib/car-identifier/run \
    CARID_MODEL_STORE=/var/lib/car-identifier/model_store \
    CARID_LOGS=console \
    CARID_DRAIN_S=5 \
    CARID_UNREADY_TIMEOUT=300
USER 10001:10001
VOLUME /var/lib/car-identifier
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-m", "deploy.healthcheck"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python", "-m", "deploy.serve"]

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
# The code is MIT's; the bundled weights are for non-commercial research, as their data.
ARG LICENSES="MIT AND LicenseRef-non-commercial-research"
LABEL org.opencontainers.image.title="Car Identifier" \
      org.opencontainers.image.description="A photo of a car in; make, model and year out" \
      org.opencontainers.image.licenses="${LICENSES}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
