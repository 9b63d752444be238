"""The service's JSON: the same as `bones predict` writes, and nothing of the patient in it or in the logs."""

import base64
import io
import logging
import subprocess
import time

import numpy as np
import pytest
from bones_models import broken, limb
from PIL import ExifTags, Image, PngImagePlugin
from radiograph_factory import PATIENT, dicom, film
from service_factory import client_of, photograph, png, settings_in, upload

from bones.batch import result_json
from bones.predict import Predictor
from bones.service import frames, inference
from bones.service.problems import MEDIA_TYPE


def test_the_answer_is_what_predict_writes(client, settings):
    predictor = Predictor(settings.model, "cpu", gate=settings.gate, threads=1)
    for picture in (png(broken()), png(limb()), photograph(), png(broken(640, 320)), dicom(film(256, 128))):
        answer = client.post("/v1/detect", files=upload(picture, "wrist.png"))
        assert answer.status_code == 200
        found = answer.json()
        assert found.pop("forced") is False
        assert found == result_json("wrist.png", predictor(picture), predictor)
    assert len(result_json("", predictor(png(broken())), predictor)["detections"]) == 1


def test_the_mask_lies_on_the_pictures_own_grid(client):
    answer = client.post("/v1/segment", files=upload(png(limb(160, 320)))).json()
    assert answer["gate"]["passed"]
    assert answer["detections"] is None
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask_png"]))))
    assert mask.shape == (320, 160)
    wanted = np.zeros((320, 160), bool)
    wanted[:, 40:80] = True
    np.testing.assert_array_equal(mask.astype(bool), wanted)


def test_what_the_gate_turns_away_is_looked_at_only_when_forced(client):
    away = client.post("/v1/detect", files=upload(photograph())).json()
    assert not away["gate"]["passed"]
    assert away["detections"] == []
    assert away["forced"] is False
    forced = client.post("/v1/detect?force=true", files=upload(png(broken()))).json()
    assert forced["gate"] is None
    assert forced["forced"] is True
    assert len(forced["detections"]) == 1


def test_the_detector_is_loaded_by_the_first_picture_that_passes(tmp_path):
    with client_of(settings_in(tmp_path)) as client:
        first = client.get("/ready").json()
        assert (first["ready"], first["gate_loaded"], first["detector_loaded"]) == (True, True, False)
        assert "OpenVINO" in first["engine"]
        assert first["device"] == "cpu"
        client.post("/v1/segment", files=upload(png(limb())))
        client.post("/v1/detect", files=upload(photograph()))
        assert not client.get("/ready").json()["detector_loaded"]
        client.post("/v1/detect", files=upload(png(limb())))
        assert client.get("/ready").json()["detector_loaded"]


def test_preload_loads_it_at_start(tmp_path):
    with client_of(settings_in(tmp_path, preload=True)) as client:
        assert client.get("/ready").json()["detector_loaded"]


def test_jobs_end_in_one_result_or_problem_for_each_file(client):
    files = [
        ("file", ("a.png", png(broken()))),
        ("file", ("../b.png", photograph())),
        ("file", ("c.png", png(limb())[:120])),
    ]
    answer = client.post("/v1/jobs", files=files)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    deadline = time.monotonic() + 60
    while job["state"] != "done" and time.monotonic() < deadline:
        job = client.get(f"/v1/jobs/{job['id']}").json()
        time.sleep(0.05)
    assert [file["file"] for file in job["files"]] == ["a.png", "b.png", "c.png"]
    assert [file["state"] for file in job["files"]] == ["done", "done", "failed"]
    one = client.post("/v1/detect", files=upload(png(broken()), "a.png")).json()
    assert job["files"][0]["result"] == one
    assert job["files"][2]["problem"]["status"] == 422
    assert (job["total"], job["finished"]) == (3, 3)
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 404


def test_models_tell_their_cards(client, settings):
    found = client.get("/v1/models").json()
    assert [model["network"] for model in found["models"]] == ["gate", "detector"]
    assert found["models"][1]["card"]["operating_points"] == {"screening": 0.2, "balanced": 0.5, "specific": 0.8}
    assert "not a medical device" in found["disclaimer"]
    assert str(settings.gate.parent) not in str(found)


def test_metrics_count_pictures(client):
    def count(text, line):
        return sum(float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))

    line = 'skiagram_pictures_total{outcome="turned away",what="detect"}'
    before = count(client.get("/metrics").text, line)
    client.post("/v1/detect", files=upload(photograph()))
    after = client.get("/metrics").text
    assert count(after, line) == before + 1
    assert count(after, 'http_requests_total{handler="/v1/detect"') >= 1
    assert count(after, "skiagram_workers ") == 1
    assert "\nskiagram_jobs_queued " in after


def test_made_up_methods_are_one_to_the_metrics_and_to_the_log(client, caplog):
    with caplog.at_level(logging.INFO, logger="bones.service"):
        answers = [client.request(method, "/v1/detect") for method in ("DOE", "JANE")]
    assert [(answer.status_code, answer.headers["allow"]) for answer in answers] == [(405, "POST")] * 2
    assert all(answer.headers["content-type"] == MEDIA_TYPE for answer in answers)
    assert "JANE" not in caplog.text + client.get("/metrics").text


@pytest.mark.parametrize("path", ["/health", "/ready", "/nowhere", "/v1/jobs/none", "/openapi.json"])
def test_every_answer_is_private_and_has_an_id(client, path):
    answer = client.get(path)
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


def test_failures_are_problems(client):
    picture = png(limb())
    failures = [
        (client.get("/nowhere"), 404, "not-found"),
        (client.get("/v1/detect"), 405, "wrong-method"),
        (client.post("/v1/detect", files=upload(b"")), 422, "unusable-picture"),
        (client.post("/v1/detect", files=upload(b"GIF89a" + picture)), 415, "unsupported-type"),
        (client.post("/v1/detect", files=upload(picture[:-30])), 422, "unusable-picture"),
        (client.post("/v1/detect?force=maybe", files=upload(picture)), 422, "invalid"),
        (client.post("/v1/detect", files={"other": ("a.png", picture)}), 422, "invalid"),
        (client.post("/v1/detect", data={"file": "text"}), 422, "invalid"),
        (client.post("/v1/jobs", files=[("file", ("x.gif", b"GIF89a"))]), 415, "unsupported-type"),
    ]
    for answer, status, slug in failures:
        assert answer.status_code == status
        assert answer.headers["content-type"] == MEDIA_TYPE
        problem = answer.json()
        assert problem["type"] == f"urn:skiagram:problem:{slug}"
        assert problem["status"] == status
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert problem["detail"]
    assert "x.gif" in failures[-1][0].json()["detail"]
    assert failures[1][0].headers["allow"] == "POST"


def test_openapi_has_stable_names(client):
    described = client.get("/openapi.json").json()
    names = {call["operationId"] for path in described["paths"].values() for call in path.values()}
    assert names == {"health", "ready", "metrics", "models", "segment", "detect", "create_job", "get_job", "delete_job"}
    detect = described["paths"]["/v1/detect"]["post"]
    assert {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503"} <= set(detect["responses"])
    problem = detect["responses"]["422"]["content"][MEDIA_TYPE]["schema"]["$ref"]
    assert problem.rsplit("/", 1)[1] in described["components"]["schemas"]
    assert described["components"]["schemas"]["Detection"]["properties"]["score"]["examples"]


def test_openapi_shows_by_example_and_says_that_it_may_fail(client):
    described = client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for name in ("Job", "JobFile", "Ready", "Failure"):
        plain = {key: field for key, field in schemas[name]["properties"].items() if "$ref" not in str(field)}
        assert plain
        assert all(field.get("examples") for field in plain.values()), name
    forms = [schema for name, schema in schemas.items() if name.startswith("Body_")]
    assert len(forms) == 3
    assert all(form["properties"]["file"]["examples"] for form in forms)
    calls = [call for path in described["paths"].values() for call in path.values()]
    assert all(call["responses"]["500"]["content"][MEDIA_TYPE] for call in calls)


def test_probes_may_ask_for_the_head_alone(client):
    for path in ("/health", "/ready"):
        answer = client.head(path)
        assert (answer.status_code, answer.text) == (200, "")


def test_no_address_leads_on_to_another(client):
    for path in ("/health/", "/v1/models/"):
        assert client.get(path, follow_redirects=False).status_code == 404


def jpeg_with_patient():
    image = Image.fromarray((broken() * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Artist] = PATIENT, PATIENT
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, comment=PATIENT.encode())
    return file.getvalue()


def png_with_patient():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Description", PATIENT)
    file = io.BytesIO()
    Image.fromarray((broken() * 255).astype(np.uint8)).save(file, "PNG", pnginfo=notes)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures_of_a_patient():
    def spoil(dataset):
        dataset.WindowCenter, dataset.WindowWidth = 0, -1
        dataset.ImageComments = PATIENT

    whole = [jpeg_with_patient(), png_with_patient(), dicom(film(256, 128)), dicom(film(), edit=spoil)]
    pictures = [*whole, *(picture[: len(picture) // 2] for picture in whole)]
    assert all(PATIENT.encode() in picture for picture in pictures)
    return pictures


def test_nothing_of_the_patient_is_answered_or_logged(client, caplog, pictures_of_a_patient):
    caplog.set_level(logging.DEBUG)
    named = f"{PATIENT}.dcm"
    statuses = []
    for picture in pictures_of_a_patient:
        for path in ("/v1/segment", "/v1/detect?force=true"):
            answer = client.post(path, files=upload(picture, "picture"))
            assert PATIENT not in answer.text
            assert "4711" not in answer.json().get("detail", "")
            statuses.append(answer.status_code)
            client.post(path, files=upload(picture, named))
        client.post("/v1/jobs", files=[("file", (named, picture))])
    assert set(statuses) == {200, 422}
    assert "Doe" not in caplog.text
    assert "local POST /v1/detect 200" in caplog.text


def test_a_worker_prints_nothing_of_the_patient(settings, pictures_of_a_patient):
    loading = {"model": str(settings.model), "gate": str(settings.gate), "preload": False, "threads": 1}
    ask = {"what": "detect", "arguments": {"max_pixels": 10**6, "name": "picture", "force": True}, "limit_s": 100}
    asked = io.BytesIO()
    frames.write(asked, loading)
    for picture in pictures_of_a_patient:
        frames.write(asked, ask, picture)
    done = subprocess.run(inference.WORKER, input=asked.getvalue(), capture_output=True, timeout=120, check=True)
    answers = io.BytesIO(done.stdout)
    assert frames.read(answers)[0]["state"]["detector_loaded"] is False
    for _ in pictures_of_a_patient:
        assert {"result", "unusable"} & set(frames.read(answers)[0])
    assert PATIENT.encode() not in done.stdout + done.stderr
