# One of the examples in a small image, with the weights of all-MiniLM-L6-v2:
#
#   docker build -t embed-http . && docker run --rm -p 8080:8080 embed-http
#
# | argument | default | what it says |
# |---|---|---|
# | PROGRAM | embed_http | which example; one without HTTP is run with `--no-healthcheck` |
# | FEATURES | none | features of the examples, as in `s3,sqs` |
# | DEVICE | cpu | `cuda` is a program that runs on cards too, with cuBLAS and cuRAND; the node's driver is 580 or newer |
# | CUDA_ARCH | fat | the one card that it is for, as in `90`, or `fat`: all that scripts/cuda-build knows |
# | WEIGHTS | baked | `mounted` leaves them out: `docker run -v FOLDER:/weights:ro`, or `-e FOREBAY_WEIGHTS=https://HOST/FOLDER`, from where they are fetched at the start; `s3://BUCKET/FOLDER` with the feature `s3` |
# | BINARY | built | `given` compiles nothing and takes the file `worker` of the context, as scripts/image --binary does |
# | BUILD_BASE | rust:1-slim-bookworm | has Rust, and either g++ and pip or apt to install them |
# | RUN_BASE | debian:bookworm-slim | has glibc and libstdc++, of no older release than BUILD_BASE; nothing is run in it |
#
# `--build-context weights=FOLDER` bakes in other weights. scripts/image builds this, starts it and looks inside.
ARG BUILD_BASE=rust:1-slim-bookworm
ARG RUN_BASE=debian:bookworm-slim
ARG DEVICE=cpu
ARG WEIGHTS=baked
ARG BINARY=built

FROM ${BUILD_BASE} AS tools
RUN if ! command -v g++ || ! command -v pip3; then \
        apt-get update && apt-get install --yes --no-install-recommends g++ python3-pip && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /project

# The manifests, and empty programs: as good as the project for building what it depends on, and it changes rarely.
FROM tools AS skeleton
COPY . .
RUN find . -type f ! -name 'Cargo.*' ! -name '*.rs' ! -path './scripts/cuda-*' \
        ! -name need ! -name image-program -delete && \
    find . -name '*.rs' | while read -r file; do echo 'fn main() {}' >"$file"; done

FROM tools AS compiled
ARG DEVICE
ARG CUDA_ARCH=fat
ARG PROGRAM=embed_http
ARG FEATURES=
COPY --from=skeleton /project .
RUN --mount=type=cache,target=/usr/local/cargo/registry scripts/image-program
COPY . .
# What has come is older than what was built of the skeleton, and cargo goes by that. What dependencies have generated in
# target/ must stay as old as it is.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find . -name "*.rs" ! -path "./target/*" -exec touch {} + && scripts/image-program >/built && cp "$(tail -n 1 /built)" /worker

FROM scratch AS program-built
COPY --from=compiled /worker /usr/local/bin/worker

FROM scratch AS program-given
COPY worker /usr/local/bin/worker

FROM program-${BINARY} AS program
# Who speaks TLS, as with S3 and SQS, believes these.
COPY --from=tools /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/

FROM tools AS fetched
COPY scripts/need scripts/weights scripts/
RUN . scripts/need && . scripts/weights && mkdir /weights && cd "$FOREBAY_WEIGHTS" && \
    cp config.json tokenizer.json model.safetensors /weights/ && chmod -R a+rX /weights

FROM scratch AS weights
COPY --from=fetched /weights/ /

# What candle opens at run time; all else of CUDA is in the program, and the driver's own comes with the node.
FROM tools AS libraries
COPY scripts/need scripts/cuda-toolkit scripts/
RUN scripts/cuda-toolkit runtime /libraries && chmod -R a+rX /libraries

# The image, the layers that change least first.
FROM ${RUN_BASE} AS run-cpu

FROM run-cpu AS run-cuda
COPY --from=libraries /libraries/ /usr/local/cuda/lib/
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM run-${DEVICE} AS run-mounted

FROM run-${DEVICE} AS run-baked
COPY --from=weights / /weights/

FROM run-${WEIGHTS}
COPY --from=program / /
USER 65534:65534
ENV PORT=8080 FOREBAY_WEIGHTS=/weights
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["/usr/local/bin/worker", "health"]
ENTRYPOINT ["/usr/local/bin/worker"]
