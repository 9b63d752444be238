// niivue, with the scan drawn from a half-float texture of our own.
//
// niivue keeps a scan as RGBA with the window baked in, and makes that texture (and a gradient of it) anew at every
// change of the window: seconds for a CT without a fast GPU. Here niivue holds a tiny stand-in with the scan's field of
// view, which gives it the geometry; the slices are drawn by a shader that reads HU and labels and applies window and
// opacity per pixel. The methods overridden are those of niivue 0.69.0, the version in vendor/.

const SCAN_UNIT = 12, LABEL_UNIT = 13 // texture units that niivue leaves alone
const ZOOM_STEP = 1.15
const PALETTE = 8 // labels 1 to 7 have a colour

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler3D scan;
uniform highp usampler3D labels;
uniform int axCorSag;
uniform vec2 windowRange;
uniform vec3 labelLow, labelHigh;
uniform float labelOpacity;
uniform bool outlined;
uniform vec4 palette[${PALETTE}];
in vec3 texPos;
out vec4 color;
uint labelAt(vec3 p) {
  if (any(lessThan(p, vec3(0.0))) || any(greaterThanEqual(p, vec3(1.0)))) return 0u;
  return min(texture(labels, p).r, ${PALETTE - 1}u);
}
void main() {
  vec3 at = texPos;
  vec3 n = vec3(textureSize(scan, 0));
  vec3 middle = (min(floor(at * n), n - 1.0) + 0.5) / n; // a stored slice, not a blend of two
  if (axCorSag == 0) at.z = middle.z; else if (axCorSag == 1) at.y = middle.y; else at.x = middle.x;
  float grey = clamp((texture(scan, at).r - windowRange.x) / (windowRange.y - windowRange.x), 0.0, 1.0);
  color = vec4(vec3(grey), 1.0);
  if (labelOpacity <= 0.0) return;
  vec3 p = (at - labelLow) / (labelHigh - labelLow);
  uint label = labelAt(p);
  float cover = label == 0u ? 0.0 : palette[label].a;
  if (outlined && cover > 0.0) {
    vec3 right = dFdx(p) * 1.5, up = dFdy(p) * 1.5;
    bool edge = labelAt(p + right) != label || labelAt(p - right) != label
             || labelAt(p + up) != label || labelAt(p - up) != label;
    cover = edge ? cover : 0.0;
  }
  color.rgb = mix(color.rgb, palette[label].rgb, cover * labelOpacity);
}`

/** A subclass of `Niivue` that shows one scan and one label map; frac are fractions of the field of view. */
export function slicesOf({ Niivue, NVImage, NVMesh }) {
  return class Slices extends Niivue {
    constructor(options) {
      super(options)
      this.scan = null // { dims, values }: half floats, x fastest
      this.paused = false // while several things change, only the last is drawn
      this.labelMap = null // { dims, values, low, high }
      this.range = [0, 1]
      this.labelOpacity = 0.6
      this.outlined = false
      this.palette = new Float32Array(4 * PALETTE)
    }

    /** Take the geometry of a scan: voxels along x y z, affine to RAS mm, row by row. */
    async setGrid(dims, affine) {
      while (this.volumes.length) this.removeVolume(this.volumes[0])
      this.installShader()
      this.setScan([1, 1, 1], new Uint16Array([0xE400])) // -1024
      this.setLabels(null)
      this.dims = dims
      this.addVolume(await NVImage.new(nifti(dims, affine), 'grid.nii'))
    }

    installShader() {
      if (this.at) return
      this.setCustomSliceShader(FRAGMENT)
      const gl = this.gl, shader = this.customSliceShader
      shader.use(gl)
      this.at = Object.fromEntries(
        ['scan', 'labels', 'windowRange', 'labelLow', 'labelHigh', 'labelOpacity', 'outlined', 'palette']
          .map((name) => [name, gl.getUniformLocation(shader.program, name)]))
      gl.uniform1i(this.at.scan, SCAN_UNIT)
      gl.uniform1i(this.at.labels, LABEL_UNIT)
    }

    /** Show values on the grid's field of view, coarse or fine. */
    setScan(dims, values) {
      this.scan = { dims, values }
      const gl = this.gl
      this.texture(SCAN_UNIT, 'scanTexture', gl.LINEAR)
      gl.texImage3D(gl.TEXTURE_3D, 0, gl.R16F, ...dims, 0, gl.RED, gl.HALF_FLOAT, values)
    }

    /** Show a label map that fills the part low..high of the field of view; null shows none. */
    setLabels(map) {
      this.labelMap = map
      const gl = this.gl
      this.texture(LABEL_UNIT, 'labelTexture', gl.NEAREST)
      gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8UI, ...(map?.dims ?? [1, 1, 1]), 0, gl.RED_INTEGER, gl.UNSIGNED_BYTE,
        map?.values ?? new Uint8Array(1))
    }

    texture(unit, name, filter) {
      const gl = this.gl
      gl.deleteTexture(this[name] ?? null)
      this[name] = gl.createTexture()
      gl.activeTexture(gl.TEXTURE0 + unit)
      gl.bindTexture(gl.TEXTURE_3D, this[name])
      for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R])
        gl.texParameteri(gl.TEXTURE_3D, axis, gl.CLAMP_TO_EDGE)
      gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MIN_FILTER, filter)
      gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MAG_FILTER, filter)
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1)
    }

    setPalette(colours) {
      this.palette.fill(0)
      for (const [label, [r, g, b], alpha] of colours)
        if (label < PALETTE) this.palette.set([r / 255, g / 255, b / 255, alpha], 4 * label)
    }

    async addSurface(buffer, name, colour, opacity = 1) {
      const mesh = await NVMesh.readMesh(buffer, name, this.gl, opacity, new Uint8Array([...colour, 255]), true)
      this.addMesh(mesh)
      return mesh
    }

    /** The value under the crosshair, and the label. */
    valueAt(frac) {
      return halfToNumber(this.scan.values[indexOf(this.scan.dims, frac)])
    }

    labelAt(frac) {
      const map = this.labelMap
      if (!map) return 0
      const inside = frac.map((f, i) => (f - map.low[i]) / (map.high[i] - map.low[i]))
      return inside.every((f) => f >= 0 && f < 1) ? map.values[indexOf(map.dims, inside)] : 0
    }

    get crosshair() {
      return Array.from(this.scene.crosshairPos)
    }

    voxel(frac = this.crosshair) {
      return frac.map((f, i) => clamp(Math.floor(f * this.dims[i]), 0, this.dims[i] - 1))
    }

    goTo(frac) {
      this.scene.crosshairPos = Float32Array.from(frac.map((f) => clamp(f, 0, 1)))
      this.drawScene()
      this.createOnLocationChange()
    }

    /** Pick the surface under the mouse; gives false, and moves nothing, where there is none. */
    pickSurface() {
      const before = this.crosshair
      this.uiData.mouseDepthPicker = true
      this.drawScene()
      this.drawScene() // niivue reads the depth in the first pass and draws in the second
      const hit = this.selectedObjectId !== 255 // the background's alpha
      if (!hit) this.goTo(before)
      return hit
    }

    // --- niivue's own methods ---

    drawSceneCore() {
      const shader = this.customSliceShader
      if (shader && this.at) {
        const gl = this.gl, map = this.labelMap
        shader.use(gl)
        gl.activeTexture(gl.TEXTURE0 + SCAN_UNIT)
        gl.bindTexture(gl.TEXTURE_3D, this.scanTexture)
        gl.activeTexture(gl.TEXTURE0 + LABEL_UNIT)
        gl.bindTexture(gl.TEXTURE_3D, this.labelTexture)
        gl.uniform2f(this.at.windowRange, this.range[0], Math.max(this.range[1], this.range[0] + 1))
        gl.uniform3fv(this.at.labelLow, map?.low ?? [0, 0, 0])
        gl.uniform3fv(this.at.labelHigh, map?.high ?? [1, 1, 1])
        gl.uniform1f(this.at.labelOpacity, map ? this.labelOpacity : 0)
        gl.uniform1i(this.at.outlined, this.outlined ? 1 : 0)
        gl.uniform4fv(this.at.palette, this.palette)
      }
      return super.drawSceneCore()
    }

    drawScene() {
      return this.paused ? undefined : super.drawScene()
    }

    drawImage3D() {} // the 3D view holds surfaces; a ray cast of the stand-in would show nothing

    resetBriCon() {} // a double click enlarges a view instead

    moveCrosshairInVox(...step) {
      this.goTo(this.voxel().map((v, i) => (clamp(v + step[i], 0, this.dims[i] - 1) + 0.5) / this.dims[i]))
    }

    wheelListener(event) {
      const [x, y] = [event.offsetX, event.offsetY].map((pixels) => pixels * this.uiData.dpr)
      if (!event.ctrlKey || this.inRenderTile(x, y) >= 0) return super.wheelListener(event)
      event.preventDefault() // or the browser would zoom the page
      const view = this.scene.pan2Dxyzmm, before = view[3]
      view[3] = clamp(before * (event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP), 1, 16)
      const at = this.frac2mm(this.scene.crosshairPos)
      for (let axis = 0; axis < 3; axis++) // the crosshair stays where it is on the screen
        view[axis] += at[axis] * (before - view[3])
      this.drawScene()
    }

    dispose() {
      for (const name of ['scanTexture', 'labelTexture']) this.gl.deleteTexture(this[name])
      this.cleanup()
      this.gl.getExtension('WEBGL_lose_context')?.loseContext()
    }
  }
}

/** A NIfTI file of a few voxels that fill the same field of view. */
function nifti(dims, affine) {
  const few = dims.map((n) => Math.min(n, 8))
  const buffer = new ArrayBuffer(352 + few[0] * few[1] * few[2]), view = new DataView(buffer)
  view.setInt32(0, 348, true)
  ;[3, ...few, 1, 1, 1, 1].forEach((n, i) => view.setInt16(40 + 2 * i, n, true))
  view.setInt16(70, 2, true) // uint8
  view.setInt16(72, 8, true)
  const scale = dims.map((n, i) => n / few[i])
  const spacing = [0, 1, 2].map((i) => Math.hypot(...[0, 1, 2].map((row) => affine[row][i])) * scale[i])
  ;[1, ...spacing].forEach((mm, i) => view.setFloat32(76 + 4 * i, mm, true))
  view.setFloat32(108, 352, true)
  view.setFloat32(112, 1, true)
  view.setUint8(123, 2) // mm
  view.setInt16(254, 1, true) // the affine is the sform
  for (let row = 0; row < 3; row++) {
    const [x, y, z, origin] = affine[row]
    const columns = [x, y, z].map((v, i) => v * scale[i])
    const start = origin + [x, y, z].reduce((sum, v, i) => sum + v * (scale[i] / 2 - 0.5), 0)
    ;[...columns, start].forEach((v, i) => view.setFloat32(280 + 16 * row + 4 * i, v, true))
  }
  ;[0x6e, 0x2b, 0x31, 0].forEach((byte, i) => view.setUint8(344 + i, byte)) // "n+1"
  new Uint8Array(buffer, 352).forEach((_, i, all) => { all[i] = i % 2 })
  return buffer
}

/** A tube around a line, of a radius at each point, as MZ3. */
export function tube(points, radii, sides = 8) {
  const rings = points.length
  const positions = new Float32Array(3 * rings * sides), faces = new Int32Array(6 * (rings - 1) * sides)
  let normal = [0, 0, 1]
  for (let i = 0; i < rings; i++) {
    const along = unit(sub(points[Math.min(i + 1, rings - 1)], points[Math.max(i - 1, 0)]))
    if (Math.abs(dot(normal, along)) > 0.99) normal = Math.abs(along[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]
    normal = unit(normal.map((v, k) => v - dot(normal, along) * along[k])) // carried along: no twist
    const other = cross(along, normal)
    for (let s = 0; s < sides; s++) {
      const [c, d] = [Math.cos, Math.sin].map((f) => radii[i] * f((2 * Math.PI * s) / sides))
      positions.set(points[i].map((v, k) => v + c * normal[k] + d * other[k]), 3 * (i * sides + s))
      if (i + 1 < rings) {
        const a = i * sides + s, b = i * sides + ((s + 1) % sides)
        faces.set([a, b, a + sides, b, b + sides, a + sides], 6 * (i * sides + s))
      }
    }
  }
  const buffer = new ArrayBuffer(16 + faces.byteLength + positions.byteLength)
  new Uint16Array(buffer, 0, 2).set([23117, 3])
  new Uint32Array(buffer, 4, 3).set([faces.length / 3, positions.length / 3, 0])
  new Int32Array(buffer, 16, faces.length).set(faces)
  new Float32Array(buffer, 16 + faces.byteLength).set(positions)
  return buffer
}

const clamp = (v, low, high) => Math.min(Math.max(v, low), high)
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
const sub = (a, b) => a.map((v, k) => v - b[k])
const unit = (a) => a.map((v) => v / (Math.hypot(...a) || 1))
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

function indexOf(dims, frac) {
  const [x, y, z] = frac.map((f, i) => clamp(Math.floor(f * dims[i]), 0, dims[i] - 1))
  return x + dims[0] * (y + dims[1] * z)
}

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023
  if (exponent === 0) return (sign * fraction) / 2 ** 24
  return exponent === 31 ? NaN : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
