# ckptgrow for a user without privileges: docker build -t ckptgrow . && docker run --rm -v "$PWD:/work" ckptgrow demo
# TORCH_INDEX: the address of a further index with torch's wheels, as the one for CPUs that torch's installation page names;
# without it only pip's own is asked, whose wheels for Linux bring CUDA along.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY ckptgrow ckptgrow
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ARG TORCH_INDEX=
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN version="$(sed -n 's/^torch==//p' /wheels/constraints.txt)" \
    && pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$version" \
    && pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[all]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 ckptgrow \
    && mkdir /work && chown ckptgrow /work
USER ckptgrow
ENV HOME=/home/ckptgrow HF_HOME=/home/ckptgrow/.cache/huggingface PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["ckptgrow"]
CMD ["--help"]
