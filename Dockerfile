# any4 in a container. One stage builds, the image that ships has the program, its libraries and the demo model: no shell, no
# package manager. Build: docker build -t any4 .    Run: docker run -p 8080:8080 any4
# Your model:            docker run -p 8080:8080 -v /path/to/model:/model:ro -v any4-cache:/cache any4 serve /model
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /src
COPY scripts/deps.sh scripts/deps.sh
RUN . scripts/deps.sh && install_packages $packages_build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN . scripts/deps.sh && build_in /build server/any4 --buildtype=release -Dtests=disabled -Dcuda=disabled \
    && strip -o /build/any4 /build/server/any4 \
    && scripts/pack.sh /build/any4 /image && rm /image/run \
    && mkdir -p /image/usr/share/any4 /image/cache && cp -r configs/demo-model /image/usr/share/any4/ \
    && chmod 0777 /image/cache

FROM scratch AS cpu
COPY --from=build /image/ /
ENV ANY4_HOST=0.0.0.0 ANY4_PORT=8080 ANY4_QUANT_CACHE=/cache
# Any user works: nothing is written but the cache volume.
USER 10001:10001
VOLUME ["/cache"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["/usr/bin/any4", "healthcheck"]
ENTRYPOINT ["/usr/bin/any4"]
CMD ["serve", "/usr/share/any4/demo-model"]
