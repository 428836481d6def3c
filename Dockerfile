# One image for the operator and the gateway (and emulated engines): small, not root, works with a read-only root.
#   docker build -t proserve .            from the root of the repository
# Pin the base by digest: --build-arg BASE=docker.io/library/python:3.13-slim@sha256:...
# Engines with vLLM are in engine-image/Dockerfile.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
# A mirror of PyPI, if pip needs one.
ARG PIP_INDEX_URL=
WORKDIR /src
COPY requirements/image.lock requirements/image-build.lock requirements/
# The same interpreter runs it from PYTHONPATH, so no virtual environment is needed. pip compiles the modules: a container
# with a read-only root could not keep what it compiles.
RUN python3 -m pip install --no-cache-dir --require-hashes --no-deps --target /opt/packages -r requirements/image.lock \
    && python3 -m pip install --no-cache-dir --require-hashes --no-deps --target /build -r requirements/image-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY engine-image engine-image
COPY gateway gateway
COPY operator operator
COPY lab lab
COPY cli cli
COPY examples/traces examples/traces
RUN PYTHONPATH=/build python3 -m pip install --no-cache-dir --no-deps --no-build-isolation --target /opt/proserve .

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ProServe operator and gateway" \
      org.opencontainers.image.description="LLM serving for requests of different importance" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# Two layers: the packages change rarely.
COPY --from=build /opt/packages /opt/packages
COPY --from=build /opt/proserve /opt/proserve
ENV PATH=/opt/proserve/bin:$PATH PYTHONPATH=/opt/proserve:/opt/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Who asks for the name or the home of the user below finds none in /etc/passwd.
ENV USER=proserve HOME=/tmp
# A number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
# OpenAI HTTP, gRPC, admin (liveness, readiness, metrics).
EXPOSE 8000 8001 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["proserve"]
CMD ["--help"]
