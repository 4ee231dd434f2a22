# The live page in a container:
#   docker build -t biflow .
#   docker run --rm -p 8000:8000 biflow                        # walks through mazes
#   docker run --rm -p 8000:8000 -v ./models:/models:ro biflow biflow serve /models --host 0.0.0.0 --token a-long-secret
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu ".[serve,openvino]" \
    && useradd --create-home biflow
USER biflow
WORKDIR /home/biflow
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz')"
# The page of a model that ships. Anyone who can reach the port can use it: add --token to restrict access.
CMD ["sh", "-c", "exec biflow serve \"$(python -c 'import biflow; print(biflow.shipped_model())')\" --host 0.0.0.0"]
