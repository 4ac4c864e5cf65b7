# ckptgrow for a user without privileges: docker build -t ckptgrow . && docker run --rm -v "$PWD:/work" ckptgrow demo
# TORCH=cpu installs torch's wheels for CPUs, TORCH=cuda its default ones for Linux, which bring CUDA along.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY ckptgrow ckptgrow
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ARG TORCH=cpu
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN if [ "$TORCH" = cpu ]; then index=https://download.pytorch.org/whl/cpu; else index=https://pypi.org/simple; fi \
    && version="$(sed -n 's/^torch==//p' /wheels/constraints.txt)" \
    && pip install --no-cache-dir --index-url "$index" --extra-index-url https://pypi.org/simple "torch==$version" \
    && pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[all]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 ckptgrow \
    && mkdir /work && chown ckptgrow /work
USER ckptgrow
ENV HOME=/home/ckptgrow HF_HOME=/home/ckptgrow/.cache/huggingface PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["ckptgrow"]
CMD ["--help"]
