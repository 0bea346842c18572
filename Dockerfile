# syntax=docker/dockerfile:1
# One static program on an empty base, run by nobody in particular, with a root that may be read-only.
#
#   docker build --target master --tag pccl/master:latest .
#   docker build --target worker --tag pccl/worker:latest .
#
# deployments/pccl-fleet/kubernetes runs both; docs/kubernetes.md says how.
FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates musl-tools \
    && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /source
COPY . .
# C parts (SQLite, the ciphers) are built by musl's compiler, too. Stripped of its tables of lines, the program is
# a sixth as large (26 MB); messages and panics still name files and lines.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    export CC_x86_64_unknown_linux_musl=musl-gcc CC_aarch64_unknown_linux_musl=musl-gcc \
    && cargo build --locked --release --package pccl-cli --target "$(uname -m)-unknown-linux-musl" \
    && install -D --strip "target/$(uname -m)-unknown-linux-musl/release/pccl" /image/pccl \
    && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && install -d -o 65532 -g 65532 /image/var/lib/pccl

FROM scratch AS pccl
COPY --from=build /image /
# Where a master that is told nothing else keeps its state: mount a volume there.
WORKDIR /var/lib/pccl
USER 65532:65532
ENTRYPOINT ["/pccl"]

FROM pccl AS master
ENV PCCL_ROLE=master
EXPOSE 7117/tcp 7117/udp 9090/tcp

FROM pccl AS worker
ENV PCCL_ROLE=worker
EXPOSE 7118/tcp 9090/tcp
