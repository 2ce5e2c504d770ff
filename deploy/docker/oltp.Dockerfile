# The OLTP tier. Built from the root of the repository:
#   docker build -f deploy/docker/oltp.Dockerfile -t penguin-oltp:0.1.0 .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.lock tools/pinned.py deploy/docker/distributions/oltp.txt ./
RUN python pinned.py requirements.lock oltp.txt > pinned.txt \
 && /opt/venv/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement pinned.txt
COPY libs/contracts libs/contracts
COPY libs/chassis libs/chassis
COPY services/oltp services/oltp
RUN /opt/venv/bin/pip install --no-deps ./libs/contracts ./libs/chassis ./services/oltp \
 && /opt/venv/bin/pip check \
 && /opt/venv/bin/pip uninstall --yes pip setuptools \
 && python -m compileall -q /opt/venv

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/venv /opt/venv
USER 10001:10001
EXPOSE 50051
CMD ["python", "-m", "penguin_oltp", "serve"]
