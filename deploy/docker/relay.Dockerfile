# The outbox relay. Built from the root of the repository:
#   docker build -f deploy/docker/relay.Dockerfile -t penguin-relay:0.1.0 .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.lock tools/pinned.py deploy/docker/distributions/relay.txt ./
RUN python pinned.py requirements.lock relay.txt > pinned.txt \
 && /opt/venv/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement pinned.txt
COPY libs/contracts libs/contracts
COPY libs/chassis libs/chassis
COPY libs/orchestrator libs/orchestrator
RUN /opt/venv/bin/pip install --no-deps ./libs/contracts ./libs/chassis ./libs/orchestrator \
 && /opt/venv/bin/pip check \
 && /opt/venv/bin/pip uninstall --yes pip setuptools \
 && python -m compileall -q /opt/venv

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/venv /opt/venv
USER 10001:10001
CMD ["python", "-m", "penguin_orchestrator.relay"]
