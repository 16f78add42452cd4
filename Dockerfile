# A small image that runs as nobody in particular. Build: docker build -t tti-connector .
# Run: docker run -v spool:/var/lib/tti-connector -v ./config.toml:/etc/tti-connector/config.toml:ro -p 8080:8080 tti-connector
# Metrics and /ready from outside: -e TTI_CONNECTOR__ADMIN__LISTEN=0.0.0.0:9090, on a network of your own.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The emulator is for tests; a production image leaves it out.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --no-default-features --features jemalloc && cp target/release/tti-connector /tti-connector

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/tti-connector --create-home connector
COPY --from=build /tti-connector /usr/local/bin/tti-connector
USER 10001
VOLUME /var/lib/tti-connector
ENV TTI_CONNECTOR_CONFIG=/etc/tti-connector/config.toml \
    TTI_CONNECTOR__SPOOL__DIRECTORY=/var/lib/tti-connector \
    TTI_CONNECTOR__WEBHOOK__LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["tti-connector", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tti-connector"]
CMD ["run"]
