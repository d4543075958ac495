# anyecg_ray with Ray, for KubeRay or any other container platform. It holds no weights and no data.
#
#   docker build -t anyecg-ray:0.1.0 .
#   docker build -t anyecg-ray:0.1.0-gpu --build-arg DEVICE=gpu .

FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
LABEL org.opencontainers.image.title="anyecg_ray" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# bash and wget: KubeRay's health checks run them in this container; libgomp: OpenMP, for torch and scikit-learn
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash libgomp1 wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/anyecg
COPY constraints.txt ./
# PyTorch's own index has the CPU build, a tenth of the size; PyPI's brings CUDA and finds the driver at run time.
# All else is what the tests ran with.
RUN grep --invert-match '^torch==' constraints.txt > others.txt \
    && torch="$(grep '^torch==' constraints.txt)" \
    && case "$DEVICE" in \
         cpu) python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$torch" ;; \
         gpu) python -m pip install --no-cache-dir "$torch" ;; \
         *) echo "DEVICE is $DEVICE; give cpu or gpu" >&2; exit 2 ;; \
       esac

COPY pyproject.toml README.md LICENSE ./
COPY anyecg_ray ./anyecg_ray
# OpenVINO is for CPUs; with a GPU the model runs on PyTorch
RUN extras=warehouse && if [ "$DEVICE" = cpu ]; then extras="cpu,$extras"; fi \
    && python -m pip install --no-cache-dir --constraint others.txt ".[$extras]" \
    && rm -rf /opt/anyecg/*

RUN useradd --create-home --uid 1000 anyecg
USER 1000
WORKDIR /home/anyecg
# Ray does not tell its makers how it is used; PyTorch's threads sleep while they wait, for others run beside them
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 OMP_WAIT_POLICY=passive
CMD ["anyecg", "--help"]
