"""Every component on one page, for those who build pages: `/gallery/` while DEBUG is on."""

from datetime import timedelta
from math import exp
from typing import Any

from django import forms
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone

from project.kernel.templatetags.tuneloop import STATES


class GalleryForm(forms.Form):
    """One field of each kind, one of them wrong."""

    name = forms.CharField(help_text="Letters, digits and dashes.")
    learning_rate = forms.FloatField()
    epochs = forms.IntegerField(min_value=1)
    method = forms.ChoiceField(choices=[("lora", "LoRA"), ("full", "Full fine-tune")], widget=forms.RadioSelect)
    model = forms.ChoiceField(choices=[("base", "smollm2-135m-instruct"), ("tuned", "support-intents:3")])
    metrics = forms.MultipleChoiceField(
        choices=[("em", "Exact match"), ("f1", "F1"), ("ppl", "Perplexity")],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )
    file = forms.FileField(required=False, help_text="JSONL, JSON or CSV, up to 2 GB.")
    deploy = forms.BooleanField(required=False, label="Deploy when it succeeds", help_text="On this host.")
    notes = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))


def gallery(request: HttpRequest) -> HttpResponse:
    if request.headers.get("accept") == "application/json":
        return JsonResponse({"series": _series(request.GET.get("keys", "").split(","))})
    now = timezone.now()
    form = GalleryForm({"name": "x", "learning_rate": "2e-4", "epochs": "-3", "method": "lora", "model": "base"})
    context: dict[str, Any] = {
        "form": form,
        "now": now - timedelta(minutes=3),
        "earlier": now - timedelta(days=2),
        "page": Paginator(range(120), 50).page(2),
        "states": sorted(STATES),
        "weights": [80, 20],
        "trend": [3, 2.6, 2.2, 2.4, 1.9, 1.6, 1.5, 1.45, 1.3],
        "section": "jobs",
    }
    return render(request, "components/gallery.html", context)


def _series(keys: list[str]) -> dict[str, dict[str, list[float]]]:
    """Curves that look like a fine-tune's."""
    series = {}
    for key in keys:
        steps = list(range(0, 400, 40 if key.startswith("eval") else 2))
        wobble = [((step * 7919) % 97) / 97 - 0.5 for step in steps]
        if key.startswith("system"):
            values = [90 + 12 * w for w in wobble]
        else:
            values = [
                2.8 * exp(-step / 120) + 0.9 + (0.3 * w if key == "loss" else 0.1)
                for step, w in zip(steps, wobble, strict=True)
            ]
        series[key] = {"steps": [float(step) for step in steps], "values": values}
    return series
