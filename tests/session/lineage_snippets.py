"""Snippets as models write them. `SAME` leaves each pixel in place, `EXACT` ends at right angles and whole pixels; `SCALED` resamples; `NONE` has no one origin."""

SAME = [
    "gray = np.array(image_0.convert('L'))\nresult = Image.fromarray(((gray > gray.mean()) * 255).astype(np.uint8))",
    "gray = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\n_, binary = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)\n"
    "result = Image.fromarray(binary)",
    "hsv = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2HSV)\nh, s, v = cv2.split(hsv)\nv = cv2.equalizeHist(v)\n"
    "result = cv2.cvtColor(cv2.merge([h, s, v]), cv2.COLOR_HSV2RGB)",
    "from PIL import ImageOps as ops\nresult = ops.autocontrast(ops.grayscale(image_0), cutoff=2)",
]
EXACT = [
    "result = image_0.crop((50, 40, 200, 150))",
    "left, top, right, bottom = 0.1, 0.15, 0.9, 0.95\nw, h = image_0.size\n"
    "result = image_0.crop((int(left * w), int(top * h), int(right * w), int(bottom * h)))",
    "result = images[0].rotate(90, expand=True).crop((10, 20, 170, 220))",
    "result = image_0.crop((20, 20, 220, 160)).rotate(-90, expand=True)",
    "box = [30, 30, 210, 150]\nresult = image_0.crop(box).convert('L')",
    "result = image_0.crop((-20, -10, 200, 150))",
    "def crop(img, x1, y1, x2, y2):\n    return img.crop((x1, y1, x2, y2))\nresult = crop(crop(image_0, 10, 10, 230, 170), 20, 10, 200, 150)",
    "arr = np.array(image_0)\ncropped = arr[30:150, 40:200]\nresult = Image.fromarray(cropped)",
    "arr = np.array(image_0)\nresult = arr[30:150, 40:200]",
    "arr = np.array(image_0)\nresult = arr[30:150, 40:200].copy()",
    "result = Image.fromarray(np.array(image_0)[20:160, 30:210, ::-1].copy())",
    "img = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2BGR)\nroi = img[25:155, 35:205]\nresult = cv2.cvtColor(roi, cv2.COLOR_BGR2RGB)",
    "img = np.array(image_0)[:, :, ::-1].copy()\nroi = img[25:155, 35:205]\nroi = cv2.rotate(roi, cv2.ROTATE_90_CLOCKWISE)\n"
    "result = Image.fromarray(roi[:, :, ::-1])",
    "gray = np.array(image_0).mean(axis=2).astype(np.uint8)\nresult = Image.fromarray(gray)",
    "crop = np.array(image_0)[20:160, 30:210]\nbright = np.clip(crop * 1.5, 0, 255).astype(np.uint8)\nresult = Image.fromarray(bright)",
    "def brighten(a, factor):\n    out = a.astype(float) * factor\n    return np.clip(out, 0, 255).astype('uint8')\n"
    "result = Image.fromarray(brighten(np.array(image_0.crop((20, 20, 200, 150))), 1.4))",
    "a = np.asarray(image_0)\nnegative = 255 - a\nresult = Image.fromarray(negative).transpose(Image.FLIP_LEFT_RIGHT)",
    "a = np.asarray(image_0) / 255.0\nresult = Image.fromarray((a ** 0.6 * 255).astype(np.uint8))",
    "marked = image_0.copy()\ndraw = ImageDraw.Draw(marked)\ndraw.rectangle([20, 20, 200, 150], outline=(255, 0, 0), width=3)\nresult = marked",
    "img = np.array(image_0)\nvis = img.copy()\ncv2.rectangle(vis, (20, 20), (200, 150), (255, 0, 0), 2)\n"
    "cv2.putText(vis, 'A', (30, 30), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)\nresult = vis",
    "crops = [image_0.crop((x, y, x + 170, y + 140)) for x in (0, 40) for y in (0, 20)]\nresult = crops[2]",
    "tiles = {}\na = np.array(image_0)\nfor name, (x, y) in {'a': (0, 0), 'b': (30, 20)}.items():\n    tiles[name] = a[y:y + 150, x:x + 180]\n"
    "result = Image.fromarray(tiles['b'])",
    "result = ImageOps.mirror(ImageOps.flip(image_0)).crop((10, 10, 220, 170))",
    "result = image_0.transpose(Image.Transpose.ROTATE_90).transpose(Image.Transpose.TRANSVERSE)",
    "result = ImageEnhance.Contrast(image_0.crop((20, 20, 220, 160)).convert('L')).enhance(2.0)",
    "img = image_0.filter(ImageFilter.MedianFilter(3))\nimg = img.filter(ImageFilter.UnsharpMask(2, 150, 3))\nresult = img",
    "g = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\nresult = cv2.Canny(cv2.GaussianBlur(g, (3, 3), 0), 50, 150)",
    "g = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\nclahe = cv2.createCLAHE(2.0, (8, 8))\nresult = clahe.apply(g)[10:, 10:]",
    "a = np.array(image_0)\nb = cv2.copyMakeBorder(a, 20, 20, 20, 20, cv2.BORDER_REFLECT)\nresult = b[10:-10, 10:-10]",
    "canvas = Image.new('RGB', (300, 240), 'white')\ncanvas.paste(image_0, (30, 30))\nresult = canvas",
    "side = max(image_0.size)\nsquare = Image.new('RGB', (side, side))\nsquare.paste(image_0, ((side - image_0.width) // 2, (side - image_0.height) // 2))\n"
    "result = square",
    "canvas = np.zeros((220, 280, 3), np.uint8)\ncanvas[20:200, 20:260] = np.array(image_0)\nresult = canvas",
    "region = image_0.crop((60, 40, 120, 80)).filter(ImageFilter.GaussianBlur(2))\nout = image_0.copy()\nout.paste(region, (60, 40))\nresult = out",
    "overlay = Image.new('RGBA', image_0.size, (0, 0, 0, 0))\nImageDraw.Draw(overlay).rectangle((10, 10, 90, 90), fill=(255, 0, 0, 60))\n"
    "result = Image.alpha_composite(image_0.convert('RGBA'), overlay).convert('RGB')",
    "r, g, b = image_0.split()\nresult = Image.merge('RGB', (b, g, r))",
    "import io\nbuffer = io.BytesIO()\nimage_0.crop((30, 20, 220, 150)).save(buffer, 'PNG')\nresult = Image.open(buffer)",
    "result = Image.frombytes('RGB', image_0.size, image_0.tobytes())",
    "import copy\nresult = copy.deepcopy(image_0.crop((20, 20, 220, 160)))",
    "import pickle\nresult = pickle.loads(pickle.dumps(np.array(image_0)[10:150, 20:200]))",
    "x = image_0\nfor _ in range(3):\n    x = x.rotate(90, expand=True)\nresult = x",
    "result = (lambda im: im.crop((10, 10, im.width - 10, im.height - 10)))(image_0)",
    "a = np.array(image_0)\na = a[10:170]\na = a[:, 20:220]\na = np.rot90(a)\na = a[::-1]\nresult = np.ascontiguousarray(a)",
    "result = np.moveaxis(np.array(image_0), 0, 1)",
    "sharp = cv2.filter2D(np.array(image_0), -1, np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]]))\nresult = sharp[20:160, 30:200]",
    "a = np.array(image_0)\nblur = cv2.GaussianBlur(a, (0, 0), 3)\nresult = cv2.addWeighted(a, 1.5, blur, -0.5, 0)",
    "mask = np.zeros((180, 240), np.uint8)\nmask[30:150, 40:200] = 255\na = np.array(image_0)\nresult = cv2.bitwise_and(a, a, mask=mask)",
    "result = ImageOps.exif_transpose(image_0).crop((40, 40, 200, 140))",
    "a = np.array(image_0)\na[:40, :40] = 0\nresult = a",
    "a = np.array(image_0)\na //= 2\na += 20\nresult = Image.fromarray(a)",
]
SCALED = [
    "crop = image_0.crop((60, 40, 180, 140))\nresult = crop.resize((crop.width * 4, crop.height * 4), Image.LANCZOS)",
    "result = image_0.crop((60, 40, 180, 140)).resize((600, 500))",
    "result = image_0.resize((480, 360)).crop((100, 80, 400, 320))",
    "result = image_0.resize((480, 360), box=(20, 10, 220, 160), reducing_gap=2.0)",
    "thumb = image_0.copy()\nthumb.thumbnail((120, 120))\nresult = thumb",
    "result = image_0.rotate(30, expand=True, resample=Image.BICUBIC, fillcolor='white')",
    "result = image_0.rotate(-12.5).crop((10, 10, 230, 170))",
    "a = np.array(image_0)[30:150, 50:200]\nresult = cv2.resize(a, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)",
    "a = cv2.resize(np.array(image_0), (480, 360), interpolation=cv2.INTER_LANCZOS4)\nresult = Image.fromarray(a[60:300, 100:400])",
    "a = np.array(image_0)\nh, w = a.shape[:2]\nM = cv2.getRotationMatrix2D((w // 2, h // 2), -20, 1.0)\n"
    "result = cv2.warpAffine(a, M, (w, h), borderMode=cv2.BORDER_REPLICATE)",
    "a = np.array(image_0)\nsrc = np.float32([[0, 0], [239, 0], [0, 179]])\ndst = np.float32([[10, 5], [220, 20], [0, 170]])\n"
    "result = cv2.warpAffine(a, cv2.getAffineTransform(src, dst), (240, 180))",
    "result = ImageOps.fit(image_0, (200, 200), centering=(0.5, 0.4))",
    "result = ImageOps.pad(image_0.crop((40, 20, 200, 150)), (300, 300), color=(255, 255, 255))",
    "a = np.array(image_0)\nbig = np.repeat(np.repeat(a[40:140, 60:180], 4, axis=0), 4, axis=1)\nresult = big",
    "g = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\ng = cv2.resize(g[30:150, 40:200], (0, 0), fx=2, fy=2)\n"
    "g = cv2.adaptiveThreshold(g, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, 11, 2)\nresult = Image.fromarray(g)",
    "M = np.eye(3)\nM[0, 2], M[1, 2] = 6.5, 3\nresult = cv2.warpPerspective(np.array(image_0), M, (250, 190))",
    "zoom = image_0.transform((300, 200), Image.QUAD, (60, 40, 60, 140, 180, 140, 180, 40), Image.BICUBIC)\nresult = zoom",
    "big = image_0.resize((480, 360), Image.BICUBIC)\narr = np.array(big)\npart = arr[80:300, 100:400].copy()\nresult = Image.fromarray(part)",
]
NONE = [
    "a, b = np.array(image_0), np.array(image_1)\nresult = np.hstack([a, b])",
    "a = np.array(image_0)\nresult = np.hstack([a[:, 120:], a[:, :120]])",
    "a = np.array(image_0)\nresult = np.roll(a, 60, axis=1)",
    "result = ImageChops.offset(image_0, 50, 20)",
    "canvas = Image.new('RGB', (480, 180))\ncanvas.paste(image_0, (0, 0))\ncanvas.paste(image_1, (240, 0))\nresult = canvas",
    "canvas = image_0.copy()\ncanvas.paste(image_1.crop((0, 0, 130, 180)), (0, 0))\nresult = canvas",
    "result = Image.blend(image_0, image_1, 0.5)",
    "result = cv2.addWeighted(np.array(image_0), 0.5, np.array(image_1), 0.5, 0)",
    "result = ((np.array(image_0).astype(int) + np.array(image_1)) // 2).astype(np.uint8)",
    "result = np.random.default_rng(1).integers(0, 256, (180, 240, 3), dtype=np.uint8)",
    "result = np.zeros((180, 240, 3), np.uint8)",
    "result = Image.new('RGB', (240, 180), 'red')",
    "result = Image.linear_gradient('L').resize((240, 180))",
    "a = np.array(image_0)\na[:, :120], a[:, 120:] = a[:, 120:].copy(), a[:, :120].copy()\nresult = a",
    "a = np.array(image_0)\nrng = np.random.default_rng(2)\nresult = rng.permutation(a.reshape(-1, 3)).reshape(a.shape)",
    "a = np.array(image_0)\nt = a.reshape(6, 30, 8, 30, 3)[::-1, :, [3, 1, 5, 0, 7, 2, 6, 4]]\nresult = np.ascontiguousarray(t.reshape(180, 240, 3))",
    "a = np.array(image_0)\nout = np.zeros_like(a)\nout[:, :120] = a[:, 120:]\nout[:, 120:] = np.array(image_1)[:, :120]\nresult = Image.fromarray(out)",
    "src = np.float32([[0, 0], [239, 0], [239, 179], [0, 179]])\ndst = np.float32([[20, 0], [200, 20], [239, 179], [0, 150]])\n"
    "result = cv2.warpPerspective(np.array(image_0), cv2.getPerspectiveTransform(src, dst), (240, 180))",
    "y, x = np.indices((180, 240), np.float32)\nresult = cv2.remap(np.array(image_0), x + 9 * np.sin(y / 9).astype('float32'), y, cv2.INTER_LINEAR)",
    "result = image_0.transform((240, 180), Image.MESH, [((0, 0, 120, 180), (120, 0, 120, 180, 240, 180, 240, 0)),"
    " ((120, 0, 240, 180), (0, 0, 0, 180, 120, 180, 120, 0))])",
    "tile = image_0.crop((0, 0, 60, 45))\ncanvas = Image.new('RGB', (240, 180))\nfor x in range(4):\n    for y in range(4):\n"
    "        canvas.paste(tile, (x * 60, y * 45))\nresult = canvas",
    "r, _, _ = image_0.split()\n_, g, b = image_1.split()\nresult = Image.merge('RGB', (r, g, b))",
    "heat = cv2.matchTemplate(np.array(image_0), np.array(image_0.crop((50, 50, 80, 80))), cv2.TM_CCOEFF_NORMED)\n"
    "result = (heat * 127 + 128).astype(np.uint8)",
    "mask = np.zeros((180, 240), np.uint8)\ncv2.circle(mask, (100, 90), 40, 255, -1)\nresult = mask",
    "img = image_0.copy()\nimg.putdata([(i % 256, i // 256 % 256, 7) for i in range(240 * 180)])\nresult = img",
    "result = cv2.vconcat([np.array(image_0)[:90], np.array(image_1)[90:]])",
    "a = np.array(image_0)\nresult = np.tile(a[:90, :120], (2, 2, 1))",
    "result = cv2.absdiff(np.array(image_0), np.array(image_1))",
    "result = Image.composite(image_0, image_1, Image.linear_gradient('L').resize((240, 180)))",
    "from PIL import ImageFont\npage = Image.new('RGB', (240, 180), 'white')\nImageDraw.Draw(page).text((20, 20), 'hello', fill='black')\nresult = page",
]
