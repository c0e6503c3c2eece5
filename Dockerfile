# syntax=docker/dockerfile:1
#
# docker build . -t 2060-webrtc-server:test
#
# For both architectures: docker buildx build --platform linux/amd64,linux/arm64 .

ARG RUST_VERSION=1.95
ARG NODE_VERSION=22
ARG DEBIAN=trixie

FROM node:${NODE_VERSION}-${DEBIAN}-slim AS node

# Rust, a C compiler (in the image already), and Node.js for the call page.
FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS tools
RUN cargo install cargo-chef --version 0.1.78 --locked
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules/npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ENV CARGO_INCREMENTAL=0 \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo
WORKDIR /src

# What the dependencies depend on: the manifests and the lock file, no sources.
FROM tools AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# A layer with the dependencies alone, kept until the lock file changes.
FROM tools AS build
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --recipe-path recipe.json --package webrtc-server
COPY . .
# Without the page there is no image: see control/build.rs.
RUN WEBRTC_SERVER_REQUIRE_WEB=1 cargo build --release --locked --package webrtc-server

FROM debian:${DEBIAN}-slim
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="webrtc-server" \
      org.opencontainers.image.description="Self-hosted WebRTC SFU for unmodified mediasoup clients" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A number, so that Kubernetes can tell that it is not root. A volume at
# /config/certs starts with the owner that the directory has here.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /config --shell /usr/sbin/nologin webrtc \
 && install -d -o 10001 -g 10001 -m 0750 /config /config/certs
COPY LICENSE /usr/share/doc/webrtc-server/LICENSE
COPY --from=build /src/target/release/webrtc-server /usr/local/bin/webrtc-server

# The certificate's default paths are relative: here they are in /config/certs.
# With a read-only root, /tmp (sockets of the workers) and /config/certs (a
# self-signed certificate, where none is given) have to be mounts.
WORKDIR /config
USER 10001:10001

# Not 443: only root may listen there in the network of the host.
ENV PROTOO_LISTEN_PORT=4443
EXPOSE 4443/tcp 40000-49999/udp 40000-49999/tcp

HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["webrtc-server", "health"]

# The server reaps its children itself: no init is needed.
STOPSIGNAL SIGTERM
ENTRYPOINT ["webrtc-server"]
