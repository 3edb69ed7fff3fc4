# agp_edge on a Jetson with JetPack 6 (Jetson Linux r36: TensorRT 10.3, CUDA 12.6, Python 3.10).
# This file has not been built yet: no Jetson was at hand. It is linted by a test.
#
#   docker build -f docker/jetson.Dockerfile -t agp-edge .         on the Jetson
#   docker run --rm --runtime nvidia agp-edge doctor
#   docker run --rm --runtime nvidia -v "$PWD:/data" agp-edge score /data/bottle.plan /data/images
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0

FROM ${BASE} AS build
# Versions are those of the image's own release.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3-dev python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# TensorRT's and CUDA's headers are the image's own: the module _trt10 and the kernels for Orin.
ENV AGP_EDGE_CUDA_ARCHITECTURES=87
RUN python3 -m pip wheel --no-deps --wheel-dir /wheels .

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-pip \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 line
COPY --from=build /wheels /wheels
# No TensorRT from PyPI: JetPack's libnvinfer is the one that knows SM 8.7.
RUN python3 -m pip install --no-cache-dir "$(ls /wheels/agp_edge-*.whl)[images,cache]" \
 && rm -rf /wheels
USER 1000
ENTRYPOINT ["agp-edge"]
CMD ["doctor"]
