# The server on CPUs, without PyTorch. compose.yaml shows how to run it; docs/container.md explains it.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY licenses licenses
COPY src src
RUN python -m venv /opt/blip2-chat \
    && /opt/blip2-chat/bin/pip install --no-cache-dir '.[web,heic]'

FROM python:3.12-slim
# Below this number are the users of most hosts: files of theirs are not readable by accident.
RUN useradd --uid 10001 --create-home blip2-chat \
    && install --directory --owner 10001 --group 10001 /models
COPY --from=build /opt/blip2-chat /opt/blip2-chat
# Checkpoints from the hub, and what they are converted to, are kept in the volume.
ENV PATH="/opt/blip2-chat/bin:$PATH" \
    HF_HOME=/models/hub \
    BLIP2_CHAT_CACHE=/models/converted
USER 10001:10001
WORKDIR /models
VOLUME /models
EXPOSE 8000
# /health needs no key. A model may take minutes to be downloaded and converted the first time.
HEALTHCHECK --interval=30s --timeout=10s --start-period=20m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["blip2-chat"]
# Others can reach a container, so it wants an API key: -e BLIP2_CHAT_API_KEY=...
CMD ["serve", "--host", "0.0.0.0"]
